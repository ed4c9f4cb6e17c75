"""Rules that pick the range of an activation from its histogram: extremes, their averages over samples, quantiles.

Every rule is a frozen dataclass with `range(histogram, spec)`, so that one calibration pass serves them all. A range
always includes zero and never reaches beyond what was seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from bitwright.calib.activation import span
from bitwright.calib.density import density, magnitudes
from bitwright.calib.extremes import Seen
from bitwright.calib.histogram import Histogram
from bitwright.numerics import Spec


class RangeRule(ABC):
    """A rule for the range that an activation's codes cover; outside of it values are clipped."""

    __slots__ = ()

    @abstractmethod
    def range(self, histogram: Histogram, spec: Spec) -> tuple[float, float]:
        """(low, high) with low <= 0 <= high, inside the extremes; raises ValueError where no finite value was seen."""


@final
@dataclass(frozen=True, slots=True)
class MinMaxRange(RangeRule):
    """From the smallest value to the largest: nothing is clipped."""

    def range(self, histogram: Seen, spec: Spec) -> tuple[float, float]:
        return span(histogram, spec)


@final
@dataclass(frozen=True, slots=True)
class MeanMinMax(RangeRule):
    """From the mean over samples of their smallest values to that of their largest."""

    def range(self, histogram: Seen, spec: Spec) -> tuple[float, float]:
        low, high = span(histogram, spec)
        lows, highs = histogram.samples.extremes().mean(0).tolist()
        return inside(lows, highs, low, high)


@final
@dataclass(frozen=True, slots=True)
class MovingAverage(RangeRule):
    """Extremes that follow those of each sample in the order of the indices: m <- m + constant * (x - m).

    Source: the moving-average observer of PyTorch. Differs: one step per sample, not per batch, so that the batch size
    is no part of the result.
    """

    constant: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.constant <= 1:
            raise ValueError(f"a moving average has a constant above 0 and at most 1; found {self.constant}")

    def range(self, histogram: Seen, spec: Spec) -> tuple[float, float]:
        bounds = span(histogram, spec)
        (low, high), *others = histogram.samples.extremes().tolist()
        for smallest, largest in others:
            low += self.constant * (smallest - low)
            high += self.constant * (largest - high)
        return inside(low, high, *bounds)


@final
@dataclass(frozen=True, slots=True)
class Percentile(RangeRule):
    """Keeps this percentage of the values; quantiles are interpolated inside a bin.

    Symmetric specs clip by magnitude. Asymmetric ones clip half of the rest at each end, or all of it at the one end
    that the values have beyond zero.
    """

    percent: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise ValueError(f"a percentile is above 0 and at most 100; found {self.percent}")

    def range(self, histogram: Histogram, spec: Spec) -> tuple[float, float]:
        low, high = span(histogram, spec)
        part = self.percent / 100
        if low < 0 < high and spec.zero is None:
            threshold = magnitudes(histogram).quantile(part)
            return inside(-threshold, threshold, low, high)
        cut = (1 - part) / 2 if low < 0 < high else 1 - part
        held = density(histogram)
        return inside(held.quantile(cut), held.quantile(1 - cut), low, high)


ExtremesRule = MinMaxRange | MeanMinMax | MovingAverage  # those that read nothing but the extremes of every sample


def inside(low: float, high: float, lowest: float, highest: float) -> tuple[float, float]:
    """This range with zero, inside [lowest, highest] (which has zero)."""
    return max(lowest, min(low, 0.0)), min(highest, max(high, 0.0))
