"""What histograms tell of calibration data: drift, coverage of other samples, distances; and no false alarms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bitwright.calib import Coverage, Histogram, Problem, check_histograms, coverage, mismatches, wasserstein
from conformance.ranges import VALUES, seen, values_of


def random(seed: int, samples: int = 32, size: int = 2000) -> torch.Tensor:
    """Samples with a level of their own, as pictures have, float32."""
    generator = torch.Generator().manual_seed(seed)
    level = 1 + 0.3 * torch.randn(samples, 1, generator=generator)
    return torch.randn(samples, size, generator=generator) * level + 0.3 * level


def covered(one: torch.Tensor, other: torch.Tensor, low: float, high: float) -> Coverage:
    (found,) = coverage({"x": seen(one)}, {"x": (low, high)}, {"x": seen(other)})
    return found


@pytest.mark.parametrize("seed", range(20))
def test_samples_of_one_kind_raise_no_alarm(seed: int) -> None:
    one, other = random(seed), random(1000 + seed)
    assert check_histograms({"x": seen(one)}) == ()
    held = covered(one, other, float(one.min()), float(one.max()))
    assert mismatches((held,)) == ()


def test_a_range_that_drifts_is_named_with_both_means() -> None:
    values = random(0)
    values[16:] *= 1.6
    (found,) = check_histograms({"calm": seen(random(1)), "conv1": seen(values)})
    assert found.problem is Problem.DRIFT and found.tensor == "conv1" and 0.1 < found.amount < 1.0
    first, second = values[:16].amax(1).mean(), values[16:].amax(1).mean()
    assert f"{float(first):.4g}" in found.text and f"{float(second):.4g}" in found.text


def test_drift_is_judged_in_the_order_of_the_indices() -> None:
    values = random(0)
    values[16:] *= 1.6
    mixed = Histogram()
    for place, index in enumerate(torch.randperm(32, generator=torch.Generator().manual_seed(1)).tolist()):
        mixed.add(values[index : index + 1], place)
    assert check_histograms({"conv1": mixed}) == ()


def test_few_samples_are_not_judged_for_drift() -> None:
    values = random(0, samples=8)
    values[4:] *= 3
    assert check_histograms({"x": seen(values)}) == ()


def test_nan_is_named_with_its_samples_and_in_running_order() -> None:
    good, bad = random(0), random(1)
    bad[5, 0], bad[9] = math.nan, math.inf
    worse = torch.full_like(good, math.nan)
    found = check_histograms({"a": seen(good), "b": seen(bad), "c": seen(worse)})
    assert [(f.problem, f.tensor) for f in found] == [(Problem.NOT_FINITE, "b"), (Problem.NOT_FINITE, "c")]
    assert found[0].samples == (5, 9) and found[0].amount == 2001 and "samples 5, 9" in found[0].text


def test_a_constant_tensor_is_named() -> None:
    (found,) = check_histograms({"dead": seen(torch.zeros(20, 9))})
    assert found.problem is Problem.CONSTANT and found.tensor == "dead"


def test_the_part_outside_a_range_equals_that_of_the_values() -> None:
    one, other = random(0), random(1) * 2
    held = covered(one, other, -1.5, 2.5)
    for found, values in ((held.outside, other), (held.calibrated_outside, one)):
        exact = float(((values < -1.5) | (values > 2.5)).double().mean())
        assert found == pytest.approx(exact, rel=0.01)


def test_other_values_beyond_the_range_are_a_mismatch() -> None:
    one = random(0)
    held = covered(one, random(1) * 2, float(one.min()), float(one.max()))
    found = mismatches((held,))
    assert Problem.OUTSIDE in [f.problem for f in found] and found[0].amount == held.outside


def test_what_a_range_clips_on_purpose_is_no_mismatch() -> None:
    one, other = random(0), random(1)
    low, high = float(one.quantile(0.005)), float(one.quantile(0.995))
    assert mismatches((covered(one, other, low, high),)) == ()


def test_other_preprocessing_is_a_mismatch_even_inside_the_range() -> None:
    one, other = random(0), random(1) * 0.3 + 2
    held = covered(one, other, float(one.min()), float(one.max()))
    (found,) = mismatches((held,))
    assert found.problem is Problem.DISTANT and found.tensor == "x" and held.outside < 1e-3


def test_the_worst_tensor_comes_first() -> None:
    one = random(0)
    names = {"a": 1.5, "b": 4.0, "c": 2.5}
    others = {name: seen(random(1) * factor) for name, factor in names.items()}
    ranges = {name: (float(one.min()), float(one.max())) for name in names}
    found = mismatches(coverage({name: seen(one) for name in names}, ranges, others))
    assert [f.tensor for f in found if f.problem is Problem.OUTSIDE] == ["b", "c", "a"]


def test_a_missing_histogram_is_an_error_that_names_it_and_an_empty_one_is_left_out() -> None:
    one = seen(random(0))
    with pytest.raises(ValueError, match="y: there is no histogram of the other samples"):
        coverage({"y": one}, {"y": (0.0, 1.0)}, {})
    assert coverage({"y": one}, {"y": (0.0, 1.0)}, {"y": Histogram()}) == ()


@pytest.mark.parametrize("one", VALUES)
@pytest.mark.parametrize("other", ["normal", "rectified", "outlier", "pixels"])
def test_the_distance_equals_that_of_sorted_values_to_a_bin(one: str, other: str) -> None:
    a, b = values_of(one), values_of(other)
    exact = float(np.abs(np.sort(a.double().flatten()) - np.sort(b.double().flatten())).mean())
    x, y = seen(a), seen(b)
    assert wasserstein(x, y) == pytest.approx(exact, abs=max(x.width, y.width), rel=1e-9)
    assert wasserstein(x, y) == wasserstein(y, x) and wasserstein(x, x) == 0.0


def test_the_distance_in_standard_deviations_does_not_depend_on_the_unit() -> None:
    one, other = random(0), random(1) + 1
    a, b = covered(one, other, -9.0, 9.0), covered(one * 256, other * 256, -9.0, 9.0)
    assert a.distance == pytest.approx(b.distance, rel=1e-9) and a.scatter == pytest.approx(b.scatter, rel=1e-9)


def test_a_single_sample_is_never_distant_since_its_scatter_is_unknown() -> None:
    held = covered(random(0), random(1, samples=1) + 9, -9.0, 9.0)
    assert held.scatter == math.inf and Problem.DISTANT not in [f.problem for f in mismatches((held,))]
