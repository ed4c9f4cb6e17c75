"""Which rule suits a tensor is measured, on samples that the ranges were not made from.

No single rule is good everywhere: percentiles suit convolutions and ruin transformers, whose rare large values carry
the meaning. So every rule proposes a range, the range is stored, and what counts is its noise on held-out samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from bitwright.calib.activation import activation_params
from bitwright.calib.density import clipped_energy, distortion, sqnr
from bitwright.calib.entropy import Entropy
from bitwright.calib.histogram import Histogram
from bitwright.calib.ranges import MinMaxRange, Percentile, RangeRule
from bitwright.calib.square_error import MeanSquaredError
from bitwright.numerics import Int, Spec


@final
@dataclass(frozen=True, slots=True)
class Trial:
    """What one rule proposed: its range, its SQNR in dB on held-out samples, and whether the guard refused it."""

    rule: RangeRule
    low: float
    high: float
    sqnr: float
    is_refused: bool = False


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """The trial that was taken, and all of them in the order in which the rules are listed."""

    taken: Trial
    trials: tuple[Trial, ...]


@final
@dataclass(frozen=True, slots=True)
class Auto(RangeRule):
    """The rule with the least noise on held-out samples; of equal ones the first. The first rule is the safe one.

    A range is refused if clipping alone costs more than `guard` of the energy of the held-out values and also more than
    rounding does: then it is a few large values that pay for many small ones. The first rule is never refused.
    """

    rules: tuple[RangeRule, ...] = (
        MinMaxRange(),
        MeanSquaredError(),
        Percentile(99.99),
        Percentile(99.999),
        Entropy(),
    )
    guard: float = 0.01

    def __post_init__(self) -> None:
        if not self.rules or any(isinstance(rule, Auto) for rule in self.rules) or not 0 <= self.guard <= 1:
            raise ValueError(f"Auto wants at least one rule, none of them Auto, and a guard from 0 to 1; found {self}")

    def range(self, histogram: Histogram, spec: Spec) -> tuple[float, float]:
        taken = self.choose(histogram, spec, histogram).taken
        return taken.low, taken.high

    def choose(self, histogram: Histogram, spec: Spec, held_out: Histogram) -> Choice:
        """Ranges from the one histogram, judged on the other, whose samples should be others.

        Entropy is left out for formats whose steps are unequal.
        """
        rules = [rule for rule in self.rules if isinstance(spec.format, Int) or not isinstance(rule, Entropy)]
        trials = tuple(self._try(rule, histogram, spec, held_out, rule is rules[0]) for rule in rules)
        allowed = [trial for trial in trials if not trial.is_refused]
        return Choice(max(allowed, key=lambda trial: trial.sqnr), trials)

    def _try(self, rule: RangeRule, histogram: Histogram, spec: Spec, held_out: Histogram, is_safe: bool) -> Trial:
        low, high = rule.range(histogram, spec)
        params = activation_params(low, high, spec)
        noise = distortion(held_out, spec, params)
        clipped = clipped_energy(held_out, low, high)
        is_refused = not is_safe and clipped > max(self.guard * held_out.mean_square, noise - clipped)
        return Trial(rule, low, high, sqnr(held_out, spec, params), is_refused)
