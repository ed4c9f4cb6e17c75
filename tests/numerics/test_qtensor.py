"""Quantized tensors against a loop over elements, and against what lies on disk."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from bitwright.numerics import (
    E2M1,
    NF4,
    Float8,
    Float8Kind,
    Format,
    Int,
    MinMax,
    MseGrid,
    Params,
    QTensor,
    Spec,
    Tile,
    per_group,
    quantize,
    store_params,
)
from bitwright.numerics.qtensor import to_scaled
from bitwright.store.tensors import flatten, gather
from conformance import references
from conformance.specs import SPECS, random_weight

SHAPE = (8, 256)


def quantized(name: str) -> QTensor:
    weight = random_weight(*SHAPE)
    return quantize(weight, SPECS[name], MinMax().fit(SPECS[name], weight))


@pytest.mark.parametrize("name", SPECS)
def test_dequantize_equals_a_loop_over_elements(name: str) -> None:
    found = quantized(name)
    expected = references.dequantize(found)
    assert torch.allclose(found.dequantize().double(), expected, rtol=3e-7, atol=1e-9)


@pytest.mark.parametrize("name", SPECS)
def test_bits_equal_the_bytes_on_disk(name: str) -> None:
    found = quantized(name)
    stored = load(save(flatten("w", found)))
    assert sum(array.numel() * array.element_size() for array in stored.values()) * 8 == found.bits
    assert found.bits == found.spec.bits(SHAPE)


@pytest.mark.parametrize("name", SPECS)
def test_what_was_saved_reads_back_exactly(name: str) -> None:
    found = quantized(name)
    back = gather("w", found.spec, SHAPE, load(save(flatten("w", found))))
    assert torch.equal(back.codes, found.codes)
    assert torch.equal(back.dequantize(), found.dequantize())


@pytest.mark.parametrize("fitter", [MinMax(), MseGrid(steps=6)], ids=["MinMax", "MseGrid"])
@pytest.mark.parametrize("name", SPECS)
def test_storing_params_twice_changes_nothing(name: str, fitter: MinMax | MseGrid) -> None:
    weight = random_weight(16, 512, seed=3) * 0.013
    spec = SPECS[name]
    once = fitter.fit(spec, weight)
    twice = store_params(spec, once)
    assert torch.equal(once.scale, twice.scale)
    assert (once.zero is None) == (spec.zero is None)
    assert once.zero is None or twice.zero is None or torch.equal(once.zero, twice.zero)


@pytest.mark.parametrize(
    "form", [Float8(), Float8(Float8Kind.E5M2), Int(8), Int(8, False), Int(6), E2M1(), NF4], ids=str
)
def test_a_scale_that_shares_a_float32_is_stored_as_itself(form: Format) -> None:
    """Thousands of outer scales: 448 x / 448 is not x for one float32 in eight, but for none that is a quotient."""
    spec = Spec(Int(4), per_group(16), scale=Spec(form, Tile(1, 4)))
    once = store_params(spec, Params(torch.rand(2000, 8) + 0.01))
    assert torch.equal(store_params(spec, once).scale, once.scale)


@pytest.mark.parametrize("name", SPECS)
def test_a_reader_sees_the_params_that_codes_were_chosen_against(name: str) -> None:
    spec, weight = SPECS[name], random_weight(*SHAPE)
    params = store_params(spec, MinMax().fit(spec, weight))
    seen = quantize(weight, spec, params).params
    assert seen is not None and torch.equal(seen.scale, params.scale)
    assert params.zero is None or seen.zero is None or torch.equal(seen.zero, params.zero)


@pytest.mark.parametrize("name", SPECS)
def test_quantize_takes_the_nearest_value_of_every_element(name: str) -> None:
    spec, weight = SPECS[name], random_weight(*SHAPE)
    params = store_params(spec, MinMax().fit(spec, weight))
    found = quantize(weight, spec, params).dequantize().double()
    assert spec.tile is not None
    scale = spec.tile.spread(params.scale, SHAPE).double()
    zero = 0 if params.zero is None else spec.tile.spread(params.zero, SHAPE).double()
    scaled = weight.double() / scale + zero
    best = (references.nearest(spec.format.values(), scaled) - zero) * scale
    assert bool(((found - weight).abs() <= (best - weight).abs() + 1e-5 * scale.abs() + 1e-6 * weight.abs()).all())


@pytest.mark.parametrize("name", SPECS)
def test_quantizing_a_quantized_matrix_changes_nothing(name: str) -> None:
    once = quantized(name)
    again = quantize(once.dequantize(), once.spec, once.params)
    assert torch.equal(again.dequantize(), once.dequantize())


def test_a_tensor_without_a_tile_is_its_codes() -> None:
    spec, weight = Spec(Int(4)), torch.tensor([[1.4, -2.6, 9.0]])
    found = quantize(weight, spec, None)
    assert found.params is None and found.dequantize().tolist() == [[1, -3, 7]]


def test_codes_follow_the_weights_scale() -> None:
    spec, weight = Spec(Int(4), per_group(4)), random_weight(4, 16)
    params = MinMax().fit(spec, weight)
    doubled = quantize(2 * weight, spec, Params(2 * params.scale))
    assert torch.equal(doubled.codes, quantize(weight, spec, params).codes)


def test_a_residual_is_added_and_counted() -> None:
    main = quantized("int4")
    rest = random_weight(*SHAPE) - main.dequantize()
    residual = quantize(rest, SPECS["int2_asymmetric"], MinMax().fit(SPECS["int2_asymmetric"], rest))
    both = QTensor(main.codes, main.spec, main.scale, main.zero, residual)
    assert torch.equal(both.dequantize(), main.dequantize() + residual.dequantize())
    assert both.bits == main.bits + residual.bits
    assert sum(a.numel() * a.element_size() for a in flatten("w", both).values()) * 8 == both.bits


@pytest.mark.parametrize("small", [0.0, 1e-45, -1e-45, 1e-30, -1e-30])
@pytest.mark.parametrize("name", SPECS)
def test_a_scale_never_becomes_zero(name: str, small: float) -> None:
    spec = SPECS[name]
    assert spec.tile is not None
    scale = torch.full(spec.tile.count(SHAPE), small)
    zero = None if spec.zero is None else torch.zeros_like(scale)
    assert bool((store_params(spec, Params(scale, zero)).scale != 0).all())


def test_to_scaled_is_the_inverse_of_the_equation() -> None:
    spec = SPECS["int4_asymmetric"]
    found = quantized("int4_asymmetric")
    assert found.params is not None
    assert torch.allclose(to_scaled(found.dequantize(), spec, found.params), found.codes.float(), atol=1e-4)
