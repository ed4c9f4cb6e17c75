"""Ranges of least squared error: published constants of the normal distribution, and brute force on the values."""

from __future__ import annotations

import pytest
import torch

from bitwright.calib import MeanSquaredError, MinMaxRange, Octav, activation_params, distortion
from bitwright.numerics import PER_TENSOR, Grid, Int, Spec, quantize
from conformance.ranges import ACTIVATIONS, gaussian, seen, values_of

# threshold and mean squared error of the best symmetric quantizer of N(0, 1), by bits
ODD_LEVELS = {8: (3.92, 8.83e-5), 4: (2.474, 0.01289), 3: (1.952, 0.04686), 2: (1.224, 0.1902)}
ODD_THRESHOLDS = {7: 3.61, 6: 3.27, 5: 2.90}
ALL_LEVELS = {4: (2.514, 0.01154), 3: (2.051, 0.03744), 2: (1.4935, 0.11885), 1: (0.7979, 0.36338)}


def odd(bits: int) -> Spec:
    """Equal steps from -(2**(bits - 1) - 1) to its negative."""
    most = 2 ** (bits - 1) - 1
    return Spec(Grid(tuple(float(i) for i in range(-most, most + 1))), PER_TENSOR)


def halves(bits: int) -> Spec:
    """2**bits equal steps around zero, which is not among them."""
    return Spec(Grid(tuple(i + 0.5 for i in range(-(2 ** (bits - 1)), 2 ** (bits - 1)))), PER_TENSOR)


@pytest.mark.parametrize(
    ("spec", "threshold", "error"),
    [(odd(b), *known) for b, known in ODD_LEVELS.items()] + [(halves(b), *known) for b, known in ALL_LEVELS.items()],
)
def test_the_search_finds_the_known_optimum_of_the_normal_distribution(
    spec: Spec, threshold: float, error: float
) -> None:
    histogram = gaussian()
    low, high = MeanSquaredError().range(histogram, spec)
    assert high == pytest.approx(threshold, rel=0.02) and low == pytest.approx(-threshold, rel=0.02)
    found = distortion(histogram, spec, activation_params(low, high, spec))
    assert found == pytest.approx(error, rel=0.005)


@pytest.mark.parametrize(("bits", "threshold"), ODD_THRESHOLDS.items())
def test_the_search_finds_the_known_thresholds_at_other_bits(bits: int, threshold: float) -> None:
    assert MeanSquaredError().range(gaussian(), odd(bits))[1] == pytest.approx(threshold, rel=0.02)


def test_integer_codes_have_the_known_threshold_at_eight_bits() -> None:
    assert MeanSquaredError().range(gaussian(), ACTIVATIONS["int8"])[1] == pytest.approx(3.92, rel=0.02)
    low, high = MeanSquaredError().range(gaussian(), ACTIVATIONS["uint8"])
    assert (high - low) / 2 == pytest.approx(3.92, rel=0.02)


def brute_force(values: torch.Tensor, spec: Spec, steps: int) -> float:
    """The least error of the values themselves over a dense grid of both ends."""
    low, high = MinMaxRange().range(seen(values), spec)
    least = float("inf")
    factors = [i / steps for i in range(1, steps + 1)]
    pairs = [(a, b) for a in factors for b in factors] if spec.zero and low < 0 < high else [(a, a) for a in factors]
    for down, up in pairs:
        bounds = (low * down, high * up)
        if spec.zero is None:
            reach = max(-low, high) * up
            bounds = (max(low, -reach), min(high, reach))
        stored = quantize(values.reshape(1, -1), spec, activation_params(*bounds, spec)).dequantize()
        least = min(least, float((stored - values.reshape(1, -1)).double().square().mean()))
    return least


@pytest.mark.parametrize("kind", ["normal", "rectified", "negative", "swish", "clipped", "shifted"])
@pytest.mark.parametrize("name", ["uint8", "int8", "uint4", "int4", "uint2"])
def test_the_search_is_as_good_as_brute_force_on_the_values(kind: str, name: str) -> None:
    values, spec = values_of(kind, 4, 2500), ACTIVATIONS[name]
    params = activation_params(*MeanSquaredError().range(seen(values), spec), spec)
    found = float((quantize(values.reshape(1, -1), spec, params).dequantize() - values.reshape(1, -1)).square().mean())
    assert found <= 1.02 * brute_force(values, spec, 16)


@pytest.mark.parametrize("kind", ["normal", "outlier", "pixels", "swish"])
@pytest.mark.parametrize("name", ["uint8", "int8", "uint4"])
def test_the_search_is_never_worse_than_the_extremes(kind: str, name: str) -> None:
    histogram, spec = seen(values_of(kind)), ACTIVATIONS[name]
    errors = [
        distortion(histogram, spec, activation_params(*rule.range(histogram, spec), spec))
        for rule in (MeanSquaredError(), MinMaxRange())
    ]
    assert errors[0] <= errors[1]


def test_a_far_outlier_on_one_side_is_clipped_there_alone() -> None:
    values = values_of("normal", 8, 50_000)
    values[0, 0] = -60.0
    low, high = MeanSquaredError().range(seen(values), ACTIVATIONS["uint4"])
    assert -12 < low < -2.0 and 2.0 < high < 4.0


@pytest.mark.parametrize("kind", ["normal", "rectified", "negative", "swish", "outlier"])
@pytest.mark.parametrize("spec", [Spec(Int(bits), PER_TENSOR) for bits in (8, 4)], ids=["int8", "int4"])
def test_octav_finds_the_minimum_of_its_own_model(kind: str, spec: Spec) -> None:
    values = values_of(kind, 8, 5000).abs().double().flatten()
    values = values[values > 0]
    cost = 1 / (12 * spec.format.high**2)

    def model(threshold: float) -> float:
        beyond = (values - threshold).clamp(min=0)
        return cost * threshold**2 * float((beyond == 0).sum()) + float(beyond.square().sum())

    found = max(-float(end) if end < 0 else float(end) for end in Octav().range(seen(values_of(kind, 8, 5000)), spec))
    least = min(model(float(values.max()) * i / 4000) for i in range(1, 4001))
    assert model(found) <= least * (1.01 if kind != "outlier" else 1.2)


@pytest.mark.parametrize(("bits", "threshold"), [(8, 3.92), (6, 3.27), (4, 2.474)])
def test_octav_is_near_the_optimum_of_the_normal_distribution(bits: int, threshold: float) -> None:
    assert Octav().range(gaussian(), Spec(Int(bits), PER_TENSOR))[1] == pytest.approx(threshold, rel=0.03)


def test_octav_of_both_ends_equals_that_of_one_threshold_where_the_values_are_symmetric() -> None:
    low, high = Octav().range(gaussian(), ACTIVATIONS["int8_zero"])
    threshold = Octav().range(gaussian(), Spec(Int(8), PER_TENSOR))[1]
    assert (-low, high) == pytest.approx((threshold, threshold), rel=0.01)


@pytest.mark.parametrize("settings", [{"octaves": 0}, {"per_octave": 0}, {"sweeps": -1}])
def test_a_search_without_tries_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="MeanSquaredError wants"):
        MeanSquaredError(**settings)
