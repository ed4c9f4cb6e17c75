"""Range rules: what all of them promise, and each of the plain ones against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bitwright.calib import (
    Entropy,
    Histogram,
    MeanMinMax,
    MinMaxRange,
    MovingAverage,
    Octav,
    Percentile,
    activation_params,
    distortion,
)
from conformance.ranges import ACTIVATIONS, FLOATS, RULES, VALUES, seen, values_of


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("rule", RULES)
def test_a_range_has_zero_lies_in_the_extremes_and_gives_params(rule: str, name: str, kind: str) -> None:
    histogram, spec = seen(values_of(kind)), ACTIVATIONS[name]
    low, high = RULES[rule].range(histogram, spec)
    assert min(0.0, histogram.low) <= low <= 0.0 <= high <= max(0.0, histogram.high)
    params = activation_params(low, high, spec)
    assert float(params.scale) > 0 and math.isfinite(distortion(histogram, spec, params))
    if not (histogram.low == histogram.high == 0.0) and not (name == "uint8_no_zero" and kind == "negative"):
        assert low < high


@pytest.mark.parametrize("kind", ["normal", "swish", "outlier"])
@pytest.mark.parametrize("rule", RULES)
def test_a_range_depends_on_no_batching_or_order(rule: str, kind: str) -> None:
    values, spec = values_of(kind), ACTIVATIONS["uint8"]
    parts = [Histogram(), Histogram()]
    for index in (5, 0, 7, 2, 1, 6, 3, 4):
        parts[index % 2].add(values[index : index + 1], index)
    parts[1].merge(parts[0])
    assert RULES[rule].range(parts[1], spec) == RULES[rule].range(seen(values), spec)


@pytest.mark.parametrize("name", ["uint8", "int8", "uint4"])
@pytest.mark.parametrize("rule", RULES)
def test_a_range_scales_with_the_values(rule: str, name: str) -> None:
    values, spec = values_of("swish"), ACTIVATIONS[name]
    one, other = (RULES[rule].range(seen(values * factor), spec) for factor in (1.0, 64.0))
    assert other == pytest.approx((one[0] * 64, one[1] * 64), rel=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_seen_is_an_error_that_says_so(rule: str) -> None:
    with pytest.raises(ValueError, match="no finite value was seen"):
        RULES[rule].range(Histogram(), ACTIVATIONS["uint8"])


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if not isinstance(rule, Entropy | Octav)])
def test_rules_without_equal_steps_serve_floats_too(rule: str) -> None:
    histogram, spec = seen(values_of("normal")), FLOATS["fp8"]
    low, high = RULES[rule].range(histogram, spec)
    assert histogram.low <= low < 0 < high <= histogram.high


@pytest.mark.parametrize("rule", [Entropy(), Octav()])
def test_rules_that_assume_equal_steps_refuse_floats(rule: Entropy | Octav) -> None:
    with pytest.raises(ValueError, match="assumes equal steps"):
        rule.range(seen(values_of("normal")), FLOATS["fp8"])


def test_min_max_is_exact() -> None:
    values = values_of("swish")
    found = MinMaxRange().range(seen(values), ACTIVATIONS["uint8"])
    assert found == (float(values.min()), float(values.max()))


def test_codes_without_sign_do_not_reach_below_zero() -> None:
    assert MinMaxRange().range(seen(values_of("swish")), ACTIVATIONS["uint8_no_zero"])[0] == 0.0


def test_the_mean_of_extremes_is_taken_over_samples() -> None:
    values = values_of("normal").double()
    expected = (float(values.amin(1).mean()), float(values.amax(1).mean()))
    assert MeanMinMax().range(seen(values), ACTIVATIONS["uint8"]) == pytest.approx(expected, rel=1e-6)


def test_a_sample_without_finite_values_is_no_part_of_a_mean() -> None:
    values = values_of("normal")
    damaged = torch.cat([values, torch.full((1, values.shape[1]), math.nan)])
    for rule in (MeanMinMax(), MovingAverage()):
        assert rule.range(seen(damaged), ACTIVATIONS["uint8"]) == rule.range(seen(values), ACTIVATIONS["uint8"])


def test_a_moving_average_follows_the_samples_in_order_of_their_index() -> None:
    values = values_of("normal")
    low, high = float(values[0].min()), float(values[0].max())
    for sample in values[1:]:
        low = 0.9 * low + 0.1 * float(sample.min())
        high = 0.9 * high + 0.1 * float(sample.max())
    backwards = Histogram()
    for index in reversed(range(len(values))):
        backwards.add(values[index : index + 1], index)
    assert MovingAverage(0.1).range(backwards, ACTIVATIONS["uint8"]) == pytest.approx((low, high), rel=1e-6)


@pytest.mark.parametrize("percent", [90.0, 99.0, 99.99, 100.0])
@pytest.mark.parametrize("kind", ["normal", "rectified", "negative", "swish", "clipped", "outlier"])
def test_percentiles_equal_those_of_the_values_to_a_bin(kind: str, percent: float) -> None:
    values = values_of(kind)
    histogram, exact = seen(values), values.double().numpy()
    threshold = np.percentile(np.abs(exact), percent)
    expected = max(-threshold, min(exact.min(), 0)), min(threshold, max(exact.max(), 0))
    rule, slack = Percentile(percent), 2 * histogram.width + np.percentile(np.abs(exact), 100) * 2e-3
    if kind != "outlier" or percent in (90.0, 100.0):  # between its outliers an interpolating reference is no measure
        assert rule.range(histogram, ACTIVATIONS["int8"]) == pytest.approx(expected, abs=slack)
    rest = 100 - percent if histogram.low * histogram.high >= 0 else (100 - percent) / 2
    expected = min(0.0, np.percentile(exact, rest)), max(0.0, np.percentile(exact, 100 - rest))
    if kind != "outlier" or percent in (90.0, 100.0):
        assert rule.range(histogram, ACTIVATIONS["uint8"]) == pytest.approx(expected, abs=slack)


def test_the_percentile_of_a_normal_distribution() -> None:
    values = torch.randn(10, 100_000, generator=torch.Generator().manual_seed(0))
    assert Percentile(99.99).range(seen(values), ACTIVATIONS["int8"])[1] == pytest.approx(3.89, rel=0.02)


@pytest.mark.parametrize(
    ("rule", "value"), [(Percentile, 0.0), (Percentile, 101.0), (MovingAverage, 0.0), (MovingAverage, 1.5)]
)
def test_settings_out_of_range_are_refused(rule: type, value: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most"):
        rule(value)
