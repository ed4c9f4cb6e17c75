"""Which rule suits a tensor is measured, on samples that the ranges were not made from.

No single rule is good everywhere: percentiles suit convolutions and ruin transformers, whose rare large values carry
the meaning. So every rule proposes a range, the range is stored, and what counts is its noise on held-out samples.

The noise is taken sample by sample, relative to that sample, and averaged in dB. Late layers of a convolutional network
may see values ten times the usual in one picture out of twenty. In a sum over all pictures that one decides, and the
range that it wants costs the other nineteen ten decibels each. Values that are large in every sample, as the few
massive ones of transformers are, weigh in every sample, and keep their range.

The mean of the noise itself is the other way to average: it never gives up a single sample. Which of the two suits a
network is not known beforehand, so both are candidates where its outputs decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from statistics import fmean, median
from typing import final

import torch
from jaxtyping import Float64
from torch import Tensor

from bitwright.calib.activation import activation_params
from bitwright.calib.density import clipped_energies, density, squared_errors
from bitwright.calib.entropy import Entropy
from bitwright.calib.extremes import Seen
from bitwright.calib.histogram import Histogram
from bitwright.calib.ranges import ExtremesRule, MeanMinMax, MinMaxRange, Percentile, RangeRule
from bitwright.calib.square_error import MeanSquaredError
from bitwright.numerics import Int, Params, Spec

_EXACT = 150.0  # dB: what float32 itself resolves; a sample without any error counts as much


class Average(Enum):
    """How noise over signal is averaged over samples."""

    DECIBELS = "decibels"  # every sample counts alike
    NOISE = "noise"  # a sample counts by its noise


@final
@dataclass(frozen=True, slots=True)
class Trial:
    """What one rule proposed: its range, the means over held-out samples of SQNR in dB and of noise over signal.

    `clipped`: the part of a sample's energy that clipping alone costs, in the median sample; `is_refused` by the guard.
    All three measures are NaN where nothing was measured (`unjudged`).
    """

    rule: RangeRule
    low: float
    high: float
    sqnr: float
    noise: float
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
    """The rule that is best on held-out samples, by the mean of their SQNR or of their noise; of equal ones the first.

    A range is refused if clipping alone costs the median sample more than `guard` of its energy and also more than
    rounding does: then it is the large values of every sample that pay for the small ones. The first rule, which is the
    safe one, is never refused.
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
    average: Average = Average.DECIBELS

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
    (choice,) = choose_each((rule,), histogram, spec, held_out)
    return choice


def choose_each(
    rules: Sequence[RangeRule], histogram: Histogram, spec: Spec, held_out: Iterable[Histogram]
) -> tuple[Choice, ...]:
    """What `choose` gives for each of these rules; what they have in common is measured once."""
    seen = [held for held in held_out if not held.is_empty]
    if not seen:
        raise ValueError("no finite value was seen in held-out samples; hold out samples that reach this tensor")
    samples = [held for held in seen if held.mean_square > 0]
    parts = [_parts(rule, spec) for rule in rules]
    table = _Table(histogram, spec, samples, [part for held in parts for part in held])
    return tuple(_taken(rule, held, table) for rule, held in zip(rules, parts, strict=True))


def unjudged(rule: ExtremesRule, seen: Seen, spec: Spec) -> Choice:
    """What a rule takes that needs no more than extremes, with nothing to measure its noise on."""
    low, high = rule.range(seen, spec)
    trial = Trial(rule, low, high, math.nan, math.nan, math.nan)
    return Choice(trial, (trial,))


def _parts(rule: RangeRule, spec: Spec) -> tuple[RangeRule, ...]:
    """The rules that this one tries on such a format."""
    if not isinstance(rule, Auto):
        return (rule,)
    return tuple(part for part in rule.rules if isinstance(spec.format, Int) or not isinstance(part, Entropy))


def _taken(rule: RangeRule, parts: Sequence[RangeRule], table: _Table) -> Choice:
    if not isinstance(rule, Auto):
        trial = table.trial(rule, math.inf)
        return Choice(trial, (trial,))
    trials = tuple(table.trial(part, rule.guard if i else math.inf) for i, part in enumerate(parts))
    allowed = [trial for trial in trials if not trial.is_refused]
    if rule.average is Average.NOISE:
        return Choice(min(allowed, key=lambda trial: trial.noise), trials)
    return Choice(max(allowed, key=lambda trial: trial.sqnr), trials)


class _Table:
    """Noise and clipped part, over the sample's energy, of every range that some rule proposes, in every sample."""

    def __init__(
        self, histogram: Histogram, spec: Spec, samples: Sequence[Histogram], rules: Sequence[RangeRule]
    ) -> None:
        self._ranges = {rule: rule.range(histogram, spec) for rule in dict.fromkeys(rules)}
        distinct = list(dict.fromkeys(self._ranges.values()))
        self._place = {held: place for place, held in enumerate(distinct)}
        self._noise, self._clipped = _measured(distinct, spec, samples)

    def trial(self, rule: RangeRule, guard: float) -> Trial:
        low, high = self._ranges[rule]
        noise, clipped = self._noise[self._place[low, high]], self._clipped[self._place[low, high]]
        if not noise:
            return Trial(rule, low, high, _EXACT, 0.0, 0.0)
        decibels = fmean(min(-10 * math.log10(part), _EXACT) if part > 0 else _EXACT for part in noise)
        trial = Trial(rule, low, high, decibels, fmean(noise), median(clipped))
        return replace(trial, is_refused=trial.clipped > max(guard, median(noise) / 2))


def _measured(
    ranges: Sequence[tuple[float, float]], spec: Spec, samples: Sequence[Histogram]
) -> tuple[list[list[float]], list[list[float]]]:
    """For every range, noise over signal in every sample, and the part of it that is clipping."""
    if not samples:
        return [[]] * len(ranges), [[]] * len(ranges)
    made = [activation_params(low, high, spec) for low, high in ranges]
    zeros = [params.zero for params in made if params.zero is not None]
    params = Params(torch.cat([one.scale for one in made]), torch.cat(zeros) if zeros else None)
    bounds = torch.tensor(ranges, dtype=torch.float64)
    noise, clipped = [], []
    for sample in samples:
        held, energy = density(sample), sample.mean_square * sample.count
        noise.append(squared_errors(held, spec, params) / energy)
        clipped.append(clipped_energies(held, bounds[:, 0], bounds[:, 1]) / energy)
    return _columns(noise), _columns(clipped)


def _columns(rows: Sequence[Float64[Tensor, "ranges"]]) -> list[list[float]]:
    found: list[list[float]] = torch.stack(list(rows)).T.tolist()
    return found
