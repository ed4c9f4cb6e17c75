"""Specs: what is refused, counted, resolved."""

from __future__ import annotations

import pytest
import torch

from bitwright.numerics import (
    E2M1,
    PER_ROW,
    PER_TENSOR,
    Float,
    Float8,
    FloatKind,
    Int,
    PowerOfTwo,
    Spec,
    Tile,
    per_group,
)
from conformance.specs import HALF, SPECS

OWN = Spec(Float(FloatKind.CHECKPOINT))


def test_a_scale_without_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="give it a tile"):
        Spec(Int(4), None, scale=HALF)
    with pytest.raises(ValueError, match="give it a tile"):
        Spec(Int(4), None, zero=HALF)


def test_a_scale_is_a_float32_unless_said_otherwise() -> None:
    assert Spec(Int(4), PER_ROW) == Spec(Int(4), PER_ROW, scale=Spec(Float()))


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (torch.float16, FloatKind.FLOAT16),
        (torch.bfloat16, FloatKind.BFLOAT16),
        (torch.float32, FloatKind.BFLOAT16),
    ],
)
def test_resolve_names_the_checkpoints_float_at_every_level(dtype: torch.dtype, kind: FloatKind) -> None:
    nested = Spec(Int(4, False), per_group(32), scale=Spec(Int(6), Tile(1, 8), scale=OWN), zero=OWN)
    own = Spec(Float(kind))
    assert nested.resolve(dtype) == Spec(
        Int(4, False), per_group(32), scale=Spec(Int(6), Tile(1, 8), scale=own), zero=own
    )


@pytest.mark.parametrize(
    ("spec", "bits"),
    [
        (Spec(Int(4), per_group(128), scale=HALF), 4 * 64 * 256 + 16 * 64 * 2),
        (Spec(Int(3, False), per_group(64), scale=HALF, zero=Spec(Int(3, False))), 3 * 64 * 256 + (16 + 3) * 64 * 4),
        (Spec(E2M1(), per_group(16), scale=Spec(Float8(), PER_TENSOR)), 4 * 64 * 256 + 8 * 64 * 16 + 32),
        (Spec(E2M1(), per_group(32), scale=Spec(PowerOfTwo())), 4 * 64 * 256 + 8 * 64 * 8),
        (Spec(Int(4), per_group(32), scale=Spec(Int(6), Tile(1, 8), scale=HALF)), 4 * 64 * 256 + 6 * 64 * 8 + 16 * 64),
        (Spec(Float8()), 8 * 64 * 256),
    ],
    ids=str,
)
def test_bits_count_codes_scales_and_zeros(spec: Spec, bits: int) -> None:
    assert spec.bits((64, 256)) == bits == sum(spec.bits_by_part((64, 256)))


def test_codes_are_counted_in_whole_bytes() -> None:
    assert Spec(Int(3)).bits((1, 3)) == 16


def test_bits_refuse_a_tile_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="does not divide 100"):
        Spec(Int(4), per_group(64)).bits((8, 100))
    with pytest.raises(ValueError, match="does not divide 6"):
        Spec(Int(4), per_group(32), scale=Spec(Int(6), Tile(1, 4))).bits((8, 192))


@pytest.mark.parametrize(
    ("spec", "span"),
    [
        (Spec(Float8()), 1),
        (Spec(Int(4), per_group(64)), 64),
        (Spec(Int(8), PER_ROW), 512),
        (Spec(Int(4), per_group(32), scale=Spec(Int(6), Tile(1, 8), scale=HALF)), 256),
        (Spec(E2M1(), per_group(16), scale=Spec(Float8(), PER_TENSOR)), 512),
        (Spec(E2M1(), per_group(32), scale=Spec(PowerOfTwo())), 32),
    ],
    ids=str,
)
def test_span_is_how_far_scales_depend_on_one_another(spec: Spec, span: int) -> None:
    assert spec.span(512) == span


def test_with_format_changes_the_codes_alone() -> None:
    spec = SPECS["k_quant"]
    assert spec.with_format(Int(2)) == Spec(Int(2), spec.tile, spec.scale, spec.zero)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_specs_read_as_words_and_hash(spec: Spec) -> None:
    assert str(spec.format) in str(spec)
    assert hash(spec) == hash(spec.resolve(torch.float32))
