"""One pass over the calibration samples: a histogram of every value that will pass through codes.

A few samples' values are held at a time; what is kept is the histograms, or only the extremes of every sample where the
rules ask for no more. Some samples, evenly spread, are held out: rules propose ranges from the others and are judged on
these. NaN stops the run, with the first value that shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from torch import Tensor

from bitwright.calib import (
    Choice,
    Effect,
    Extremes,
    ExtremesRule,
    Finding,
    Given,
    Histogram,
    InputCheck,
    LeastEffect,
    RangeRule,
    Seen,
    check_histograms,
    choose_each,
    unjudged,
)
from bitwright.calib.activation import activation_params, span
from bitwright.engine.portions import run_in_parts
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.network import Network, Value
from bitwright.numerics import Params, Spec
from bitwright.recipe.network import NetworkPlan
from bitwright.recipe.points import Point
from bitwright.store.quantized import StoredPoint
from bitwright.store.sample_set import stacking_of

HELD_OUT = 8  # one sample of eight in a row judges the ranges
_TURNS = (4, 2, 6, 1, 5, 3, 7, 0)  # which one of the first eight, of the next eight, and so on
SEEN = 64  # held-out samples that a range is judged on


class CalibrationError(ValueError):
    """The calibration data cannot give sound ranges; says which value and sample, and what to do."""


@final
@dataclass(slots=True)
class Observed:
    """Histograms by value: of samples that make ranges, and of each held-out sample; findings about the data.

    `extremes` by value instead where no histogram was wanted; then nothing is held out. `effects`: how the outputs move
    with a value, where that is known.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    extremes: dict[str, Extremes] = field(default_factory=dict)
    held_out: dict[str, list[Histogram]] = field(default_factory=dict)
    effects: Mapping[str, Effect] = field(default_factory=dict)
    count: int = 0
    findings: tuple[Finding, ...] = ()


def is_held_out(index: int) -> bool:
    """Whether this sample judges what others propose: one of each eight, at a place that changes from eight to eight.

    Sets are often sorted. With the same place in all eights, the samples at one end would never judge.
    """
    return index % HELD_OUT == _TURNS[index // HELD_OUT % len(_TURNS)]


def observe(
    runner: OnnxRunner,
    values: Sequence[str],
    batches: Iterable[Mapping[str, Tensor]],
    on_sample: Callable[[int], None] = lambda count: None,
    is_counted: bool = True,
) -> Observed:
    """What these values are over all batches. Raises CalibrationError for data that cannot be used.

    `is_counted` False: no histograms, only extremes, which are enough for any `ExtremesRule`.
    """
    found = Observed(held_out={name: [] for name in values})
    if is_counted:
        found.histograms = {name: Histogram() for name in values}
    else:
        found.extremes = {name: Extremes() for name in values}
    seen: Mapping[str, Seen] = found.histograms or found.extremes
    inputs = [runner.network.values[name] for name in runner.network.inputs]
    shares = stacking_of(inputs).shares
    check = InputCheck({value.name: _rows_of(value, shares) for value in inputs})

    def take(held: int, made: Mapping[str, Tensor]) -> None:
        size = held if shares else 1
        for name, value in made.items():
            _take_in(seen[name], value, found.count, size)
            _hold_out(found, name, value, size)
        found.count += size

    for batch in batches:
        check.add(_as_rows(batch, shares), found.count)
        run_in_parts(runner, batch, values, take)
        on_sample(found.count)
    for name, histogram in found.histograms.items():
        if not found.held_out[name]:  # too few samples, or no row of the value is of one sample: the same ones judge
            found.held_out[name].append(histogram)
    findings = (*check.findings(), *check_histograms(seen))
    fatal = [finding for finding in findings if finding.problem.is_fatal]
    if fatal:
        maker = runner.network.producers.get(fatal[0].tensor)
        whose = "" if maker is None else f", made by {maker.op} {maker.name}"
        raise CalibrationError(
            f"{fatal[0].text}{whose}; leave such samples out, or look at what that operator is given"
        )
    found.findings = findings
    return found


def _rows_of(value: Value, shares: bool) -> tuple[int | None, ...] | None:
    """The shape of an input whose first axis counts samples."""
    if value.shape is None:
        return None
    return value.shape if shares and value.shape else (None, *value.shape)


def _as_rows(batch: Mapping[str, Tensor], shares: bool) -> dict[str, Tensor]:
    """The samples of a batch along the first axis: a scalar is every sample's, a call of its own is one sample."""
    if not shares:
        return {name: tensor[None] for name, tensor in batch.items()}
    size = min((len(tensor) for tensor in batch.values() if tensor.dim()), default=1)
    return {name: tensor if tensor.dim() else tensor.expand(size) for name, tensor in batch.items()}


def _take_in(seen: Seen, value: Tensor, first: int, size: int) -> None:
    """Take in the values of samples from `first` on, but for those that are held out."""
    if not _has_samples(value, size):  # counts for the first
        seen.add(value.reshape(1, -1), first)
        return
    value = value.reshape(size, -1)
    makers = [row for row in range(size) if not is_held_out(first + row)]
    start = 0
    while start < len(makers):  # runs of neighbours, so that indices stay those of the samples
        stop = start
        while stop + 1 < len(makers) and makers[stop + 1] == makers[stop] + 1:
            stop += 1
        seen.add(value[makers[start] : makers[stop] + 1], first + makers[start])
        start = stop + 1


def _hold_out(found: Observed, name: str, value: Tensor, size: int) -> None:
    """Count every held-out sample apart, where anything is counted."""
    if name not in found.histograms or not _has_samples(value, size):
        return
    value = value.reshape(size, -1)
    for row in range(size):
        index = found.count + row
        if is_held_out(index):
            alone = Histogram()
            alone.add(value[row : row + 1], index)
            found.held_out[name].append(alone)


def _has_samples(value: Tensor, size: int) -> bool:
    """Whether a value can be cut into samples: it has one or several rows (windows, heads) for each."""
    return value.dim() > 0 and len(value) > 0 and len(value) % size == 0


def points_of_each(
    plan: NetworkPlan, network: Network, observed: Observed, rules: Sequence[RangeRule]
) -> list[tuple[dict[str, StoredPoint], dict[str, Choice]]]:
    """For each rule, every point with its range, and by group how it was chosen."""
    sources = plan.placement.sources(network)
    specs = {point.group: point.spec for point in reversed(plan.placement.points) if not point.dynamic}
    groups = dict.fromkeys(point.group for point in plan.placement.points if point.group in specs)
    chosen = {group: _chosen(sources[group], observed, rules, specs[group]) for group in groups}
    found = []
    for place in range(len(rules)):
        choices = {group: held[place] for group, held in chosen.items()}
        found.append((points_with(plan, choices), choices))
    return found


def points_with(plan: NetworkPlan, choices: Mapping[str, Choice]) -> dict[str, StoredPoint]:
    """Every point of the plan with the range that was chosen for its group."""
    return {point.value: _stored(point, choices.get(point.group)) for point in plan.placement.points}


def _stored(point: Point, choice: Choice | None) -> StoredPoint:
    """A point with its range; without one where there is no choice, because it is found as the network runs."""
    if choice is None:
        return StoredPoint(point.value, point.spec, point.group, point.readers)
    taken = choice.taken
    params: Params = activation_params(taken.low, taken.high, point.spec)
    return StoredPoint(point.value, point.spec, point.group, point.readers, taken.low, taken.high, params)


def _chosen(values: Sequence[str], observed: Observed, rules: Sequence[RangeRule], spec: Spec) -> tuple[Choice, ...]:
    first, *others = values
    if observed.extremes:
        return _by_extremes(values, observed, rules, spec)
    histogram, held = observed.histograms[first], observed.held_out[first]
    if others:
        histogram, held = Histogram(), []
        for name in values:
            histogram.merge(observed.histograms[name])
            held = held + observed.held_out[name]
    effects = [observed.effects[name] for name in values if name in observed.effects]
    if len(effects) < len(values):
        effects = []
    try:
        ends = span(histogram, spec)
        asked = [_found(rule, effects, ends, spec) for rule in rules]
        choices = choose_each(asked, histogram, spec, _spread(held))
    except ValueError as error:
        raise CalibrationError(f"{first}: {error}") from error
    return tuple(
        _named(choice, rule) if isinstance(rule, LeastEffect) else choice
        for rule, choice in zip(rules, choices, strict=True)
    )


def _named(choice: Choice, rule: RangeRule) -> Choice:
    """The choice under the name of the rule that was asked for."""
    trial = replace(choice.taken, rule=rule)
    return Choice(trial, (trial,))


def _found(rule: RangeRule, effects: Sequence[Effect], ends: tuple[float, float], spec: Spec) -> RangeRule:
    """The rule, or what it comes to where it takes more than a histogram."""
    return Given(*rule.measured(effects, ends, spec)) if isinstance(rule, LeastEffect) and effects else rule


def _by_extremes(
    values: Sequence[str], observed: Observed, rules: Sequence[RangeRule], spec: Spec
) -> tuple[Choice, ...]:
    seen = Extremes()
    for name in values:
        seen.merge(observed.extremes[name])
    try:
        return tuple(unjudged(rule, seen, spec) for rule in rules if isinstance(rule, ExtremesRule))
    except ValueError as error:
        raise CalibrationError(f"{values[0]}: {error}") from error


def _spread(held: Sequence[Histogram]) -> Sequence[Histogram]:
    """At most 64 of them, from all places: more change the choice of a rule hardly, and cost time for every value."""
    count = min(len(held), SEEN)
    return [held[place * len(held) // count] for place in range(count)]
