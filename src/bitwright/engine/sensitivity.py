"""What the report needs to advise: the loss of every weight with more bits, and what its numbers look like.

The two remedies for a weight that loses much are one bit more and half the group. What they would buy is estimated
without solving again: rounding to nearest is cheap, and the ratio of its losses carries over to the solver's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.numerics import Int, MinMax, Spec, Tile, quantize, row_ranges

_BINS = 64


def one_bit_more(spec: Spec) -> Spec | None:
    """The spec with one more bit for codes (and integer zeros); None for formats whose width is fixed."""
    if not isinstance(spec.format, Int) or spec.format.width == 8:
        return None
    zero = spec.zero
    if zero is not None and isinstance(zero.format, Int) and zero.format.width < 8:
        zero = replace(zero, format=Int(zero.format.width + 1, zero.format.signed))
    return replace(spec, format=Int(spec.format.width + 1, spec.format.signed), zero=zero)


def half_the_group(spec: Spec, cols: int) -> Spec | None:
    """The spec with tiles half as wide; None where they cannot be halved."""
    if spec.tile is None or (spec.scale is not None and spec.scale.tile is not None):
        return None
    width = spec.tile.size((1, cols))[1]
    if width % 2 or spec.tile.rows is None:
        return None
    return replace(spec, tile=Tile(spec.tile.rows, width // 2))


def remedies(
    weight: Float[Tensor, "out in"], spec: Spec, diagonal: Float[Tensor, "in"] | None, loss: float
) -> dict[str, Any]:
    """The estimated loss and the bits of both remedies, as entries of the manifest."""
    entry: dict[str, Any] = {}
    base = _nearest_loss(weight, spec, diagonal)
    shape = (weight.shape[0], weight.shape[1])
    for key, other in (("one_bit_more", one_bit_more(spec)), ("half_group", half_the_group(spec, shape[1]))):
        if other is not None and base > 0:
            entry[f"loss_{key}"] = loss * min(1.0, _nearest_loss(weight, other, diagonal) / base)
            entry[f"bits_{key}"] = other.bits(shape)
    return entry


def _nearest_loss(weight: Tensor, spec: Spec, diagonal: Tensor | None) -> float:
    importance = 1.0 if diagonal is None else diagonal.double()
    total = 0.0
    for start, stop in row_ranges(spec, (weight.shape[0], weight.shape[1])):
        rows = weight[start:stop]
        params = None if spec.tile is None else MinMax().fit(spec, rows)
        squared = (quantize(rows, spec, params).dequantize() - rows).square_()
        total += float((squared.sum(0).double() * importance).sum())
    return total


def distribution(values: Float[Tensor, "..."]) -> dict[str, Any] | None:
    """Counts of the values in equal bins from the smallest to the largest; None for no values."""
    if not values.numel():
        return None
    low, high = float(values.min()), float(values.max())
    if not high > low:
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(values.float(), _BINS, low, high)
    return {"low": low, "high": high, "counts": [int(count) for count in counts]}


def grid(
    spec: Spec, scale: Float[Tensor, "down across"] | None, zero: Float[Tensor, "down across"] | None
) -> list[float]:
    """The values that a typical tile of the weight can take (that of the median scale); empty for fine formats."""
    if spec.format.bits > 4 or scale is None:
        return []
    sizes = scale.abs().flatten()
    place = int(torch.argsort(sizes)[len(sizes) // 2])
    offset = 0.0 if zero is None else float(zero.flatten()[place])
    return [(float(value) - offset) * float(scale.flatten()[place]) for value in spec.format.values()]
