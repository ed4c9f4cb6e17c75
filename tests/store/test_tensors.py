"""A quantized tensor taken apart into arrays and put together again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bitwright.numerics import Float, FloatKind, QTensor, Spec
from bitwright.solvers import Nearest, Problem
from bitwright.store.tensors import flatten, gather
from conformance import specs

SPECS = specs.SPECS | {
    "one_bit": specs.asymmetric(1, 16),
    "int3_small_tiles": specs.asymmetric(3, 8),
    "plain": Spec(Float(FloatKind.BFLOAT16)),
}


def rounded(spec: Spec) -> QTensor:
    weight = torch.randn(8, 128, generator=torch.Generator().manual_seed(0))
    return Nearest().solve(Problem(weight, spec)).qtensor


@pytest.mark.parametrize("name", SPECS)
def test_what_is_put_together_is_what_was_taken_apart(name: str) -> None:
    qtensor = rounded(SPECS[name])
    arrays = flatten("layer", qtensor)
    assert all(key.startswith("layer.") for key in arrays)
    again = gather("layer", qtensor.spec, qtensor.shape, arrays)
    assert torch.equal(again.codes, qtensor.codes) and again.codes.dtype == qtensor.codes.dtype
    assert torch.equal(again.dequantize(), qtensor.dequantize())


@pytest.mark.parametrize("name", SPECS)
def test_the_arrays_take_the_bits_that_the_tensor_counts(name: str) -> None:
    qtensor = rounded(SPECS[name])
    assert sum(array.nbytes for array in flatten("layer", qtensor).values()) * 8 == qtensor.bits


def test_arrays_of_two_names_do_not_mix() -> None:
    one, other = rounded(SPECS["int4"]), rounded(SPECS["nf4"])
    arrays = flatten("a", one) | flatten("a.b", other)
    assert torch.equal(gather("a", one.spec, one.shape, arrays).dequantize(), one.dequantize())
    assert torch.equal(gather("a.b", other.spec, other.shape, arrays).dequantize(), other.dequantize())


def test_a_residual_is_not_lost_in_silence() -> None:
    qtensor = rounded(SPECS["int4"])
    arrays = flatten("layer", replace(qtensor, residual=qtensor))
    with pytest.raises(AssertionError):
        gather("layer", qtensor.spec, qtensor.shape, arrays)
