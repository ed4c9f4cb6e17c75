"""Ranges are what tiles hold; constants of the reference distortion table."""

from __future__ import annotations

import pytest
import torch

from bitwright.numerics import Int, MinMax, Spec, per_group, quantize
from conformance.specs import random_weight


def test_symmetric_signed_formats_use_their_full_range() -> None:
    spec = Spec(Int(4), per_group(8))
    weight = torch.tensor([[0.1, -0.8, 0.3, 0.2, 0.0, 0.5, -0.2, 0.4], [0.1, 0.8, 0.3, 0.2, 0.0, -0.5, -0.2, 0.4]])
    params = MinMax().fit(spec, weight)
    assert params.scale.flatten().tolist() == pytest.approx([0.1, -0.1])
    assert quantize(weight, spec, params).codes[:, 1].tolist() == [-8, -8]


def test_the_largest_magnitude_is_reproduced() -> None:
    spec, weight = Spec(Int(4), per_group(32)), random_weight(8, 128)
    found = quantize(weight, spec, MinMax().fit(spec, weight)).dequantize()
    at = weight.reshape(8, 4, 32).abs().argmax(-1, keepdim=True)
    wanted = weight.reshape(8, 4, 32).gather(-1, at)
    assert torch.allclose(found.reshape(8, 4, 32).gather(-1, at), wanted, rtol=1e-6)


def test_asymmetric_ranges_cover_smallest_and_largest_with_zero_inside() -> None:
    spec = Spec(Int(4, signed=False), per_group(4), zero=Spec(Int(4, signed=False)))
    weight = torch.tensor([[-1.0, 0.0, 1.0, 2.0], [1.0, 1.5, 2.0, 3.0], [-3.0, -2.0, -1.0, -0.5]])
    params = MinMax().fit(spec, weight)
    assert params.zero is not None
    assert params.scale.flatten().tolist() == pytest.approx([0.2, 0.2, 0.2])
    assert params.zero.flatten().tolist() == [5, 0, 15]


def test_no_element_is_further_off_than_half_a_step_where_nothing_is_clipped() -> None:
    spec = Spec(Int(4, signed=False), per_group(16), zero=Spec(Int(4, signed=False)))
    weight = random_weight(16, 64)
    params = MinMax().fit(spec, weight)
    found = quantize(weight, spec, params)
    inside = (found.codes > 0) & (found.codes < 15)
    step = params.scale.repeat_interleave(16, 1)
    assert bool(((found.dequantize() - weight).abs() <= 0.5001 * step)[inside].all())


def test_codes_never_fall_where_weights_rise() -> None:
    spec = Spec(Int(3, signed=False), per_group(64), zero=Spec(Int(3, signed=False)))
    weight = random_weight(1, 64).sort().values
    assert bool((quantize(weight, spec, MinMax().fit(spec, weight)).codes.int().diff() >= 0).all())
