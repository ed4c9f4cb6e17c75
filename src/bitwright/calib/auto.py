"""Which rule suits a tensor is measured, on samples that the ranges were not made from.

No single rule is good everywhere: percentiles suit convolutions and ruin transformers, whose rare large values carry
the meaning. So every rule proposes a range, the range is stored, and what counts is its noise on held-out samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
        first, *others = (_tried(rule, histogram, spec, held_out) for rule in rules)
        trials = (first, *(replace(trial, is_refused=self._refuses(trial, spec, held_out)) for trial in others))
        return Choice(max((t for t in trials if not t.is_refused), key=lambda trial: trial.sqnr), trials)

    def _refuses(self, trial: Trial, spec: Spec, held_out: Histogram) -> bool:
        noise = distortion(held_out, spec, activation_params(trial.low, trial.high, spec))
        clipped = clipped_energy(held_out, trial.low, trial.high)
        return clipped > max(self.guard * held_out.mean_square, noise - clipped)


def choose(rule: RangeRule, histogram: Histogram, spec: Spec, held_out: Histogram) -> Choice:
    """What a rule takes, with its noise on held-out samples: `Auto` tries several, every other rule is its only one."""
    if isinstance(rule, Auto):
        return rule.choose(histogram, spec, held_out)
    trial = _tried(rule, histogram, spec, held_out)
    return Choice(trial, (trial,))


def _tried(rule: RangeRule, histogram: Histogram, spec: Spec, held_out: Histogram) -> Trial:
    low, high = rule.range(histogram, spec)
    return Trial(rule, low, high, sqnr(held_out, spec, activation_params(low, high, spec)))
