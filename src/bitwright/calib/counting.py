"""Counts numbers in the bins of a histogram: a few passes over a piece that stays in the processor's cache.

Here a grid has one slot more than bins: the numbers that are exactly zero get their own, between the negative bins and
the positive ones, so that they are counted on the way. The slot of a number is its quotient by the width, rounded
towards zero, plus its sign. Neighbours count in tables of their own: half the numbers behind a ReLU are zero, and
adding one to the same place again and again waits for memory each time.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from bitwright.calib.samples import CHUNK

TABLES = 2


def count_bins(values: Float[Tensor, "n"], exponent: int, first: int, bins: int) -> tuple[Int64[Tensor, "bins"], int]:
    """How many of these float32 numbers lie in each of the bins from `first` (at most 0) on, and how many are zero.

    Bin j holds [j, j + 1) widths of 2**exponent for j >= 0, and (j, j + 1] for j < 0. All numbers lie in some bin.
    """
    size, slots, inverse = min(CHUNK, values.numel()), bins + 1, 2.0**-exponent
    table = (_turns()[:size] * slots).sub_(first)
    scaled, places, signs = torch.empty(size), torch.empty_like(table), torch.empty_like(table)
    counts = torch.zeros(TABLES * slots, dtype=torch.int64)
    for part in values.split(CHUNK):
        if part.numel() < size:
            table, scaled, places, signs = (held[: part.numel()] for held in (table, scaled, places, signs))
        # a product too small for float32 is rounded to zero, which is its place; its sign is that of the number itself
        places.copy_(torch.mul(part, inverse, out=scaled))
        signs.copy_(torch.sign(part, out=scaled))
        counts += torch.bincount(places.add_(signs).add_(table), minlength=TABLES * slots)
    counts = counts.view(TABLES, slots).sum(0)
    zeros = counts[-first].clone()
    counts = torch.cat([counts[:-first], counts[-first + 1 :]])
    counts[-first] += zeros
    return counts, int(zeros)


@cache
def _turns() -> Int32[Tensor, "n"]:
    """The table of each number of a piece, in turn."""
    return torch.arange(CHUNK, dtype=torch.int32) % TABLES
