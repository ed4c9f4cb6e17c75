"""Which rule suits a tensor is measured, on samples that the ranges were not made from.

No single rule is good everywhere: percentiles suit convolutions and ruin transformers, whose rare large values carry
the meaning. So every rule proposes a range, the range is stored, and what counts is its noise on held-out samples.

The noise is taken sample by sample, relative to that sample, and averaged in dB. Late layers of a convolutional network
may see values ten times the usual in one picture out of twenty. In a sum over all pictures that one decides, and the
range that it wants costs the other nineteen ten decibels each. Values that are large in every sample, as the few
massive ones of transformers are, weigh in every sample, and keep their range.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median
from typing import final

from bitwright.calib.activation import activation_params
from bitwright.calib.density import clipped_energy, distortion, sqnr
from bitwright.calib.entropy import Entropy
from bitwright.calib.histogram import Histogram
from bitwright.calib.ranges import MeanMinMax, MinMaxRange, Percentile, RangeRule
from bitwright.calib.square_error import MeanSquaredError
from bitwright.numerics import Int, Spec

_EXACT = 150.0  # dB: what float32 itself resolves; a sample without any error counts as much


@final
@dataclass(frozen=True, slots=True)
class Trial:
    """What one rule proposed: its range, the mean over held-out samples of their SQNR in dB, whether it was refused.

    `clipped`: the part of a sample's energy that clipping alone costs, in the median sample.
    """

    rule: RangeRule
    low: float
    high: float
    sqnr: float
    clipped: float
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
    """The rule with the highest mean SQNR on held-out samples; of equal ones the first, which is the safe one.

    A range is refused if clipping alone costs the median sample more than `guard` of its energy and also more than
    rounding does: then it is the large values of every sample that pay for the small ones. The first rule is never
    refused.
    """

    rules: tuple[RangeRule, ...] = (
        MinMaxRange(),
        MeanMinMax(),
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
        """Judged on the very values that the ranges were made from, all as one sample; prefer `choose`."""
        taken = choose(self, histogram, spec, [histogram]).taken
        return taken.low, taken.high


def choose(rule: RangeRule, histogram: Histogram, spec: Spec, held_out: Iterable[Histogram]) -> Choice:
    """What a rule takes, and its noise on held-out samples (a histogram each): `Auto` tries several, others themselves.

    Raises ValueError where no held-out sample has a finite value. Samples of zeros alone say nothing and are left out.
    """
    seen = [held for held in held_out if not held.is_empty]
    if not seen:
        raise ValueError("no finite value was seen in held-out samples; hold out samples that reach this tensor")
    samples = [held for held in seen if held.mean_square > 0]
    if not isinstance(rule, Auto):
        trial = _tried(rule, histogram, spec, samples, guard=math.inf)
        return Choice(trial, (trial,))
    first, *others = [r for r in rule.rules if isinstance(spec.format, Int) or not isinstance(r, Entropy)]
    trials = (
        _tried(first, histogram, spec, samples, guard=math.inf),
        *(_tried(other, histogram, spec, samples, rule.guard) for other in others),
    )
    return Choice(max((trial for trial in trials if not trial.is_refused), key=lambda trial: trial.sqnr), trials)


def _tried(rule: RangeRule, histogram: Histogram, spec: Spec, samples: list[Histogram], guard: float) -> Trial:
    low, high = rule.range(histogram, spec)
    if not samples:
        return Trial(rule, low, high, _EXACT, 0.0)
    params = activation_params(low, high, spec)
    clipped = [clipped_energy(held, low, high) / held.mean_square for held in samples]
    noise = [distortion(held, spec, params) / held.mean_square for held in samples]
    is_refused = median(clipped) > max(guard, median(noise) / 2)
    ratio = fmean(min(sqnr(held, spec, params), _EXACT) for held in samples)
    return Trial(rule, low, high, ratio, median(clipped), is_refused)
