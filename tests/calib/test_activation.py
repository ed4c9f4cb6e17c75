"""Scales and zeros of activations: what they cover, that zero is exact, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from bitwright.calib import activation_params
from bitwright.calib.activation import params_between
from bitwright.numerics import PER_ROW, PER_TENSOR, Float, Int, Spec, quantize, store_params
from conformance.ranges import ACTIVATIONS, FLOATS, asymmetric

SPECS = ACTIVATIONS | FLOATS
RANGES = [(0.0, 1.0), (-1.0, 0.0), (-0.3, 17.0), (-5.0, 5.0), (0.0, 0.0), (0.0, 1e-44), (-1e-40, 2e-42), (-3e38, 3e38)]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_params_are_stored_ones_with_a_positive_scale_and_zero_is_exact(name: str, low: float, high: float) -> None:
    spec = SPECS[name]
    params = activation_params(low, high, spec)
    assert float(params.scale) > 0 and math.isfinite(float(params.scale))
    stored = store_params(spec, params)
    assert torch.equal(stored.scale, params.scale)
    zero = quantize(torch.zeros(1, 1), spec, params).dequantize()
    assert float(zero) == 0.0


@pytest.mark.parametrize("name", [name for name in SPECS if name != "uint8_no_zero"])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 0.0), (-0.3, 17.0), (-5.0, 5.0), (-1e30, 1e20)])
def test_both_ends_are_covered_to_half_a_step(name: str, low: float, high: float) -> None:
    spec = SPECS[name]
    params = activation_params(low, high, spec)
    ends = torch.tensor([[low, high]])
    error = (quantize(ends, spec, params).dequantize() - ends).abs()
    step = max(-low, high) * 2.0**-3 if spec in FLOATS.values() else float(params.scale)
    assert float(error.max()) <= step * 0.50001


def test_the_standard_formulas_of_uint8_and_int8() -> None:
    params = activation_params(-1.0, 3.0, ACTIVATIONS["uint8"])
    assert params.zero is not None
    assert float(params.scale) == pytest.approx(4 / 255) and float(params.zero) == 64
    symmetric = activation_params(-2.0, 3.0, ACTIVATIONS["int8"])
    assert symmetric.zero is None and float(symmetric.scale) == pytest.approx(3 / 127)


def test_negative_numbers_may_use_the_code_that_positive_ones_lack() -> None:
    assert float(activation_params(-8.0, 1.0, ACTIVATIONS["int4"]).scale) == 1.0
    assert float(activation_params(-7.0, 7.0, ACTIVATIONS["int4"]).scale) == 1.0


def test_many_ranges_are_each_as_alone() -> None:
    low, high = -torch.rand(20, 1), torch.rand(20, 1) * 3
    for spec in SPECS.values():
        together = params_between(spec, low, high)
        for i in range(20):
            alone = activation_params(float(low[i]), float(high[i]), spec)
            assert torch.equal(together.scale[i : i + 1], alone.scale)


@pytest.mark.parametrize(("low", "high"), [(math.nan, 1.0), (0.0, math.inf), (2.0, 1.0)])
def test_a_range_that_is_none_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="a range goes from"):
        activation_params(low, high, ACTIVATIONS["uint8"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Spec(Int(8), PER_ROW), "one scale per tensor"),
        (Spec(Float()), "one scale per tensor"),
        (Spec(Int(8, signed=False), PER_TENSOR, zero=Spec(Float())), "zero of an activation is an integer"),
    ],
)
def test_a_spec_that_no_activation_has_is_refused(spec: Spec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        activation_params(0.0, 1.0, spec)


def test_a_signed_asymmetric_spec_covers_the_same_as_an_unsigned_one() -> None:
    one, other = activation_params(-1.0, 3.0, asymmetric(8)), activation_params(-1.0, 3.0, asymmetric(8, signed=True))
    assert one.zero is not None and other.zero is not None
    assert torch.equal(one.scale, other.scale) and float(one.zero) - 128 == float(other.zero)
