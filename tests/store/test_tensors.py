"""A quantized tensor taken apart into arrays and put together again."""

from __future__ import annotations

import pytest
import torch

from bitwright.numerics import (
    E2M1,
    NF4,
    PER_ROW,
    PER_TENSOR,
    TERNARY,
    Float,
    Float8,
    FloatKind,
    Int,
    PowerOfTwo,
    QTensor,
    Spec,
    Tile,
    per_group,
)
from bitwright.recipe.presets import asymmetric
from bitwright.solvers import Nearest, Problem
from bitwright.store.tensors import flatten, gather

SPECS = {
    "int4": Spec(Int(4), per_group(16), scale=Spec(Float(FloatKind.FLOAT16))),
    "asymmetric": asymmetric(3, 16).resolve(torch.bfloat16),
    "one bit": asymmetric(1, 16).resolve(torch.float16),
    "per row": Spec(Int(8), PER_ROW, scale=Spec(Float(FloatKind.BFLOAT16))),
    "per tensor": Spec(Float8(), PER_TENSOR, scale=Spec(Float(FloatKind.FLOAT32))),
    "block": Spec(Int(5), Tile(4, 8), scale=Spec(Float(FloatKind.FLOAT32))),
    "nf4": Spec(NF4, per_group(32), scale=Spec(Float(FloatKind.FLOAT16))),
    "ternary": Spec(TERNARY, per_group(32), scale=Spec(Float(FloatKind.FLOAT16))),
    "mxfp4": Spec(E2M1(), per_group(32), scale=Spec(PowerOfTwo())),
    "nvfp4": Spec(E2M1(), per_group(16), scale=Spec(Float8(), PER_TENSOR, scale=Spec(Float(FloatKind.FLOAT32)))),
    "k-quant": Spec(
        Int(4, signed=False),
        per_group(8),
        scale=Spec(Int(6, signed=False), Tile(1, 4), scale=Spec(Float(FloatKind.FLOAT16))),
        zero=Spec(Int(6, signed=False), Tile(1, 4), scale=Spec(Float(FloatKind.FLOAT16))),
    ),
    "plain": Spec(Float(FloatKind.BFLOAT16)),
}


def rounded(spec: Spec) -> QTensor:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
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
