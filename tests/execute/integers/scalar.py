"""The integer arithmetic of engines one number at a time: plain loops, whole numbers, one float32 operation a line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

F = np.float32


def saturated(number: int, bits: int = 16) -> int:
    return max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, number))


def dot(x: Sequence[int], w: Sequence[int], x_zero: int, least: int, in_pairs: bool) -> int:
    """sum (x - x_zero) * w; `in_pairs`: of unsigned bytes, neighbours added in 16 bits, the zero taken off last."""
    if not in_pairs:
        return sum((int(a) - x_zero) * int(b) for a, b in zip(x, w, strict=True))
    raw = [int(a) - least for a in x] + [0] * (len(x) % 2)
    weights = [int(b) for b in w] + [0] * (len(w) % 2)
    total = 0
    for k in range(0, len(raw), 2):
        total += saturated(raw[k] * weights[k] + raw[k + 1] * weights[k + 1])
    return total - (x_zero - least) * sum(weights)


def convolution(x: Any, w: Any, x_zero: int, least: int, attributes: dict[str, Any], in_pairs: bool) -> Any:
    """Sums of a two-dimensional convolution of codes [batch, _, height, width]."""
    batch, _, height, width = x.shape
    out, each, rows, columns = w.shape
    groups, (down, right) = attributes["group"], attributes["strides"]
    (top, left, bottom, far), (gap_y, gap_x) = attributes["pads"], attributes["dilations"]
    high = (height + top + bottom - (rows - 1) * gap_y - 1) // down + 1
    wide = (width + left + far - (columns - 1) * gap_x - 1) // right + 1
    sums = np.zeros((batch, out, high, wide), np.int64)
    is_depthwise = each == 1 and out == groups > 1
    for n, o, i, j in product(range(batch), range(out), range(high), range(wide)):
        read, weights = [], []
        for r, c, k in product(range(rows), range(columns), range(each)):
            y, z = i * down + r * gap_y - top, j * right + c * gap_x - left
            inside = 0 <= y < height and 0 <= z < width
            read.append(int(x[n, o // (out // groups) * each + k, y, z]) if inside else x_zero)
            weights.append(int(w[o, k, r, c]))
        sums[n, o, i, j] = dot(read, weights, x_zero, least, in_pairs and not is_depthwise)
    return sums


def half_even(number: Any) -> int:
    """The nearest whole number of a float32, halves to the even one, by hand."""
    below = int(np.floor(number))
    rest = float(number) - below
    return below + (rest > 0.5 or (rest == 0.5 and below % 2 == 1))


def requantized(total: int, factor: Any, zero: int, low: int, high: int) -> int:
    scaled = F(F(total) * F(factor))
    return half_even(min(max(scaled, F(low - zero)), F(high - zero))) + zero


def by_shift(number: int, shift: int) -> int:
    """number / 2^shift, the nearest whole number, halves away from zero."""
    size = (abs(number) * 2 + 2**shift) // 2 ** (shift + 1)
    return size if number >= 0 else -size
