"""The range whose coarse histogram tells the most about the fine one: calibration by relative entropy.

A candidate keeps the first i bins of |x| (what lies beyond is added to the last of them) and merges them into as many
groups as there are levels. Its cost is the relative entropy between the kept bins and the groups spread out again. All
candidates share three running sums (counts, bins in use, count * log count), so each is a sum over groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from bitwright.calib.activation import span
from bitwright.calib.density import fold
from bitwright.calib.histogram import Histogram
from bitwright.calib.ranges import RangeRule, inside
from bitwright.calib.square_error import integer_steps
from bitwright.numerics import Spec

_BINS = 2048  # of |x|; twice as many are joined in pairs
_AT_ONCE = 96  # candidates summed together: their tables of groups stay in cache and are not shared out among threads


@final
@dataclass(frozen=True, slots=True)
class Entropy(RangeRule):
    """The threshold of least relative entropy; of equal ones the largest. Cost: some 5 milliseconds. Integers only.

    The first bin is given the count of the second, so that the many exact zeros behind a ReLU do not decide.

    Source: TensorRT's calibration (Migacz 2017), as NVIDIA's open implementations spell it out. Differs: all candidates
    at once; asymmetric specs have as many levels as will lie on the longer side of the range, not half or all of them.
    """

    def range(self, histogram: Histogram, spec: Spec) -> tuple[float, float]:
        low, high = span(histogram, spec)
        levels = integer_steps(spec, "Entropy") + 1
        if low == high:
            return low, high
        share = 0.5 if spec.zero is None and spec.format.low < 0 else max(-low, high) / (high - low)
        counts, width = fold(histogram), histogram.width
        if len(counts) > _BINS:
            counts = torch.nn.functional.pad(counts, (0, len(counts) % 2)).reshape(-1, 2).sum(1)
            width *= 2
        counts[0] = counts[min(1, len(counts) - 1)]
        threshold = least_entropy(counts, max(2, round(levels * share))) * width
        return inside(-threshold, threshold, low, high)


def least_entropy(counts: Int64[Tensor, "bins"], levels: int) -> int:
    """How many bins, counted from zero, to keep: the last candidate of least relative entropy, or all of them."""
    if len(counts) <= levels or int(counts.sum()) == 0:
        return len(counts)
    kept = torch.arange(levels, len(counts) + 1)
    sums = _Sums.of(counts)
    cost = torch.cat([sums.relative_entropy(part, levels) for part in kept.split(_AT_ONCE)])
    # candidates that differ by trailing empty bins are equal but for rounding
    return int(kept[(cost <= cost.min() + 1e-12).nonzero()[-1]])


@final
@dataclass(frozen=True, slots=True)
class _Sums:
    """Running sums over bins, each with a leading zero."""

    counts: Float64[Tensor, "bins"]
    mass: Float64[Tensor, "ends"]
    used: Float64[Tensor, "ends"]
    entropy: Float64[Tensor, "ends"]

    @classmethod
    def of(cls, counts: Int64[Tensor, "bins"]) -> _Sums:
        exact = counts.double()
        rows = torch.stack([exact, (exact > 0).double(), torch.xlogy(exact, exact)])
        mass, used, entropy = torch.nn.functional.pad(rows.cumsum(1), (1, 0))
        return cls(exact, mass, used, entropy)

    def relative_entropy(self, kept: Int64[Tensor, "candidates"], levels: int) -> Float64[Tensor, "candidates"]:
        """KL(P || Q) in nats of every candidate; infinite where P has mass at a bin that Q leaves empty."""
        ends = (torch.arange(levels + 1) * kept[:, None] + levels - 1) // levels
        group = self.mass[ends].diff()
        used = self.used[ends].diff()
        spread = torch.where(used > 0, (group / used).log(), 0.0)  # log of what each bin in use gets
        total, within, last = self.mass[-1], self.mass[kept], self.counts[kept - 1]
        beyond = total - within
        own = self.entropy[kept] - torch.xlogy(last, last) + torch.xlogy(last + beyond, last + beyond)
        cross = torch.where(group > 0, group * spread, 0.0).sum(1) + beyond * spread[:, -1]
        cost = (own - cross) / total - total.log() + within.log()
        return torch.where((beyond > 0) & (last == 0) | (within == 0), torch.inf, cost)
