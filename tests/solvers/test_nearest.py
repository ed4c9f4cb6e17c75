"""Rounding to nearest: no better code exists for any element."""

from __future__ import annotations

import pytest
import torch

from bitwright.numerics import Float8, Spec, quantize
from bitwright.solvers import Nearest, Problem
from conformance.specs import SPECS, random_gram, random_weight


@pytest.mark.parametrize("name", SPECS)
def test_codes_are_those_of_the_fitted_grid(name: str) -> None:
    weight, spec = random_weight(8, 256), SPECS[name]
    found = Nearest().solve(Problem(weight, spec, random_gram(256)))
    expected = quantize(weight, spec, Nearest().fitter.fit(spec, weight))
    assert torch.equal(found.qtensor.codes, expected.codes)


def test_it_asks_for_no_data_and_needs_none() -> None:
    weight = random_weight(8, 256)
    found = Nearest().solve(Problem(weight, SPECS["int4"]))
    assert not Nearest().needs_gram
    assert found.loss == pytest.approx(float((found.qtensor.dequantize() - weight).double().square().sum()))


def test_a_spec_without_scales_is_cast() -> None:
    weight = random_weight(4, 16)
    found = Nearest().solve(Problem(weight, Spec(Float8()))).qtensor
    assert torch.equal(found.dequantize(), weight.to(torch.float8_e4m3fn).float())
