"""The largest magnitude meets the largest number."""

from __future__ import annotations

import pytest
import torch

from bitwright.numerics import E2M1, AbsMax, Float8, Format, Int, Spec, per_group, quantize
from conformance.specs import random_weight


@pytest.mark.parametrize("form", [Int(4), Int(8), E2M1(), Float8()], ids=str)
def test_scale_is_largest_magnitude_over_largest_number(form: Format) -> None:
    weight = random_weight(4, 64)
    params = AbsMax().fit(Spec(form, per_group(16)), weight)
    for i in range(4):
        for j in range(4):
            largest = max(abs(value) for value in weight[i, 16 * j : 16 * j + 16].tolist())
            assert float(params.scale[i, j]) == pytest.approx(largest / form.high, rel=1e-6)


def test_one_code_of_a_twos_complement_format_stays_unused() -> None:
    weight = random_weight(16, 64)
    spec = Spec(Int(4), per_group(16))
    codes = quantize(weight, spec, AbsMax().fit(spec, weight)).codes
    assert (int(codes.min()), int(codes.max())) == (-7, 7)


def test_with_a_zero_the_range_is_symmetric_about_it() -> None:
    weight = torch.tensor([[-0.5, 0.1, 0.2, 1.0]])
    spec = Spec(Int(4, signed=False), per_group(4), zero=Spec(Int(4, signed=False)))
    params = AbsMax().fit(spec, weight)
    assert params.zero is not None
    assert float(params.scale) == pytest.approx(2 / 15)
    assert float(params.zero) in (7, 8)


def test_one_signed_bit_has_a_finite_scale() -> None:
    spec, weight = Spec(Int(1), per_group(4)), torch.tensor([[1.0, -2.0, 0.5, 0.0]])
    params = AbsMax().fit(spec, weight)
    assert params.scale.tolist() == [[2.0]]
    assert quantize(weight, spec, params).dequantize().tolist() == [[0.0, -2.0, 0.0, 0.0]]
