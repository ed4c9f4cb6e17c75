"""Ranges of least squared error, clipping included: by search with the very codes, or by a fixed point.

The error of a range is an integral over the histogram in closed form (`density.py`), so candidates are cheap and are
judged with scale and zero as they will be stored, at the resolution of the bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float64
from torch import Tensor

from bitwright.calib.activation import params_between, span
from bitwright.calib.density import Density, density, magnitudes, squared_errors
from bitwright.calib.histogram import Histogram
from bitwright.calib.ranges import RangeRule, inside
from bitwright.numerics import Int, Params, Spec

_Judge = Callable[[Float64[Tensor, "candidates"]], Float64[Tensor, "candidates"]]  # errors that these factors give


@final
@dataclass(frozen=True, slots=True)
class MeanSquaredError(RangeRule):
    """The range of least mean squared error. Cost: some 10 milliseconds.

    Ends are moved over `octaves` octaves below the extremes, `per_octave` tries in each, then in ever finer steps
    around the best. Asymmetric specs: both ends by the same factor and by the same magnitude, then each end alone,
    `sweeps` times.

    The error has many small dips at few bits, so this is the best of what was tried, not a proof.

    Source: the grid searches of AIMET, MQBench and others. Differs: geometric steps, so that a far outlier does not
    make them coarse; ends apart; errors from the histogram's density and from params as stored.
    """

    octaves: int = 11
    per_octave: int = 6
    sweeps: int = 2

    def __post_init__(self) -> None:
        if self.octaves < 1 or self.per_octave < 1 or self.sweeps < 0:
            raise ValueError(f"MeanSquaredError wants octaves, per_octave >= 1 and sweeps >= 0; found {self}")

    def range(self, histogram: Histogram, spec: Spec) -> tuple[float, float]:
        held = density(histogram)
        return self.search(spec, span(histogram, spec), lambda params: squared_errors(held, spec, params))

    def search(
        self, spec: Spec, ends: tuple[float, float], judge: Callable[[Params], Float64[Tensor, "candidates"]]
    ) -> tuple[float, float]:
        """The range inside `ends` (which has zero) whose params have the least error by `judge`, which gets many."""
        low, high = ends
        reach = max(-low, high)

        def errors(lows: Tensor, highs: Tensor) -> Tensor:
            return judge(params_between(spec, lows[:, None].float(), highs[:, None].float()))

        factor, least = self._search(lambda f: errors((-reach * f).clamp(min=low), (reach * f).clamp(max=high)))
        best = max(low, -reach * factor), min(high, reach * factor)
        if spec.zero is None or low == 0 or high == 0:
            return best
        factor, found = self._search(lambda f: errors(low * f, high * f))
        if found < least:
            best, least = (low * factor, high * factor), found
        for sweep in range(2 * self.sweeps):
            best, least = self._move(best, least, (low, high), sweep % 2 == 0, errors)
        return best

    def _move(
        self,
        best: tuple[float, float],
        least: float,
        ends: tuple[float, float],
        is_low: bool,
        errors: Callable[[Tensor, Tensor], Tensor],
    ) -> tuple[tuple[float, float], float]:
        """The best range and its error after one of its ends was searched anew and the other kept."""

        def at(factor: Tensor) -> tuple[Tensor, Tensor]:
            kept = torch.full_like(factor, best[1] if is_low else best[0])
            return (ends[0] * factor, kept) if is_low else (kept, ends[1] * factor)

        factor, found = self._search(lambda f: errors(*at(f)))
        if not found < least:
            return best, least
        return ((ends[0] * factor, best[1]) if is_low else (best[0], ends[1] * factor)), found

    def _search(self, errors: _Judge) -> tuple[float, float]:
        """The factor in (0, 1] of least error, and that error; of equal ones the largest."""
        steps = torch.arange(self.octaves * self.per_octave + 1, dtype=torch.float64)
        factor, least = 1.0, float("inf")
        tried = torch.exp2(-steps / self.per_octave)
        step = 1 / self.per_octave
        for _ in range(4):
            found = errors(tried)
            if float(found.min()) < least:
                place = int(found.argmin())
                factor, least = float(tried[place]), float(found[place])
            step /= 4
            offsets = torch.arange(4, -5, -1, dtype=torch.float64) * step
            tried = (factor * torch.exp2(offsets)).clamp(max=1.0)
        return factor, least


@final
@dataclass(frozen=True, slots=True)
class Octav(RangeRule):
    """The fixed point at which a wider range would cost as much in rounding as it saves in clipping. Integers only.

    Rounding is taken to cost step**2 / 12 for every value inside the range that is not zero, clipping its squared
    distance. Cost: a few milliseconds.

    Source: OCTAV (Sakr 2022, "Optimal Clipping and Magnitude-aware Differentiation", eq. 10). Differs: both ends of an
    asymmetric range are unknowns of one iteration; 2**bits - 1 steps instead of 2**bits.
    """

    iterations: int = 100

    def range(self, histogram: Histogram, spec: Spec) -> tuple[float, float]:
        low, high = span(histogram, spec)
        steps = integer_steps(spec, "Octav")
        if low == high:
            return low, high
        if spec.zero is None and spec.format.low < 0:
            threshold = self._end(magnitudes(histogram), spec.format.high)
            return inside(-threshold, threshold, low, high)
        return self._ends(density(histogram), steps, low, high)

    def _end(self, held: Density, steps: float) -> float:
        """The threshold of magnitudes that `steps` equal steps from zero reach."""
        cost = 1 / (12 * steps**2)
        end = float(held.edges[-1])
        values = held.above(0.0)[0]
        for _ in range(self.iterations):
            clipped, excess, _ = held.above(end)
            before = end
            end = (excess + clipped * end) / (clipped + cost * (values - clipped))
            if abs(end - before) <= 1e-9 * before:
                break
        return end

    def _ends(self, held: Density, steps: float, low: float, high: float) -> tuple[float, float]:
        """Both ends of a range of `steps` equal steps; an end that is zero stays zero."""
        cost = 1 / (12 * steps**2)
        values = held.above(0.0)[0] + held.below(0.0)[0]
        lowest, highest = low, high
        for _ in range(self.iterations):
            before = low, high
            (over, over_excess, _), (under, under_excess, _) = held.above(high), held.below(low)
            round_off = cost * (values - over - under)
            if highest > 0:
                high = (over_excess + over * high + round_off * low) / (over + round_off)
            if lowest < 0:
                low = (-under_excess + under * low + round_off * high) / (under + round_off)
            low, high = inside(low, high, lowest, highest)
            if max(abs(low - before[0]), abs(high - before[1])) <= 1e-9 * (before[1] - before[0]):
                break
        return low, high


def integer_steps(spec: Spec, rule: str) -> float:
    """How many equal steps lead from the lowest code to the highest; raises ValueError where they are not equal."""
    if not isinstance(spec.format, Int):
        raise ValueError(
            f"{rule} assumes equal steps; found {spec.format}; use MinMaxRange or MeanSquaredError with it"
        )
    return spec.format.high - spec.format.low
