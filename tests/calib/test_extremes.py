"""Extremes without a histogram are those that the histogram of the same samples has, whatever the batches."""

from __future__ import annotations

import math

import pytest
import torch

from bitwright.calib import Extremes, ExtremesRule, Histogram, check_histograms
from conformance.ranges import ACTIVATIONS, RULES, VALUES, values_of


def damaged() -> torch.Tensor:
    """Samples with NaN and infinity, one of them with nothing else."""
    x = values_of("normal", samples=6, size=50).clone()
    x[1, 3], x[2, 4], x[3, 5] = math.nan, math.inf, -math.inf
    x[4] = math.nan
    return x


def seen_as(kind: type[Extremes] | type[Histogram], values: torch.Tensor, sizes: list[int]):
    held, start = kind(), 0
    for size in sizes:
        held.add(values[start : start + size], start)
        start += size
    assert start == len(values)
    return held


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if isinstance(rule, ExtremesRule)])
@pytest.mark.parametrize("spec", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("kind", VALUES)
def test_rules_of_extremes_give_the_range_that_they_give_from_a_histogram(name: str, spec, kind: str) -> None:
    values = values_of(kind)
    wanted = RULES[name].range(seen_as(Histogram, values, [8]), spec)
    assert RULES[name].range(seen_as(Extremes, values, [3, 4, 1]), spec) == wanted


def test_other_rules_are_not_among_them() -> None:
    assert {name for name, rule in RULES.items() if isinstance(rule, ExtremesRule)} == {
        "minmax",
        "mean_minmax",
        "moving_average",
    }


def test_what_is_not_finite_is_counted_by_sample_and_left_out() -> None:
    values = damaged()
    one, other = seen_as(Extremes, values, [2, 2, 2]), seen_as(Histogram, values, [6])
    assert one.samples.nonfinite == other.samples.nonfinite == {1: 1, 2: 1, 3: 1, 4: 50}
    assert torch.equal(one.samples.extremes(), other.samples.extremes())
    assert (one.low, one.high) == (float(values[values.isfinite()].min()), float(values[values.isfinite()].max()))
    assert [finding.text for finding in check_histograms({"x": one})] == [
        finding.text for finding in check_histograms({"x": other})
    ]


def test_a_sample_may_come_in_parts_and_from_two_workers() -> None:
    values = values_of("normal", samples=4, size=100)
    one, other = Extremes(), Extremes()
    one.add(values[:2, :30], 0)
    other.add(values[2:], 2)
    other.add(values[:2, 30:], 0)
    one.merge(other)
    assert torch.equal(one.samples.extremes()[:, 0].float(), values.amin(1))
    assert torch.equal(one.samples.extremes()[:, 1].float(), values.amax(1))


def test_sums_that_were_not_made_are_not_given_out_as_zero() -> None:
    held = seen_as(Extremes, values_of("normal"), [8])
    assert math.isnan(held.samples.total) and math.isnan(held.samples.square)


def test_nothing_finite_is_an_error_that_names_the_samples() -> None:
    held = Extremes()
    assert held.is_empty
    with pytest.raises(ValueError, match="none at all"):
        held.low
    held.add(torch.full((2, 3), math.nan), 4)
    assert held.is_empty
    with pytest.raises(ValueError, match=r"samples \[4, 5\]"):
        held.high


def test_no_values_and_complex_ones() -> None:
    held = Extremes()
    held.add(torch.zeros(0, 3), 0)
    assert held.is_empty and held.samples.indices == []
    with pytest.raises(ValueError, match="complex"):
        held.add(torch.zeros(1, dtype=torch.complex64), 0)
