"""Which specs have a scheme, and what is said about the others."""

import pytest

from bitwright.export import ExportError
from bitwright.export.schemes import find_scheme
from bitwright.numerics import (
    E2M1,
    NF4,
    PER_ROW,
    PER_TENSOR,
    Float,
    Float8,
    Float8Kind,
    Int,
    PowerOfTwo,
    Spec,
    Tile,
    per_block,
    per_group,
)
from export.artifacts import SPECS

UINT4 = Int(4, signed=False)


@pytest.mark.parametrize("name", SPECS)
def test_what_the_layout_holds_has_a_scheme(name: str) -> None:
    assert find_scheme(SPECS[name]).bits == SPECS[name].format.bits


@pytest.mark.parametrize(
    ("tile", "strategy", "shape"),
    [
        (PER_TENSOR, "tensor", (1,)),
        (PER_ROW, "channel", (32, 1)),
        (per_block(8, 16), "block", (4, 3)),
    ],
)
def test_the_tile_is_the_strategy(tile: Tile, strategy: str, shape: tuple[int, ...]) -> None:
    scheme = find_scheme(Spec(Float8(), tile))
    assert (scheme.strategy, scheme.scale_shape((32, 48))) == (strategy, shape)


def test_a_group_is_named_with_its_size() -> None:
    scheme = find_scheme(Spec(Int(4), per_group(16)))
    assert scheme.scale_shape((32, 48)) == (32, 3)
    assert scheme.weights() == {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": 16,
        "dynamic": False,
    }


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Spec(NF4, per_group(16)), "its codes are NF4"),
        (Spec(E2M1(), per_group(16)), "its codes are float4 e2m1"),
        (Spec(E2M1(), per_group(16), scale=Spec(Float8(), PER_TENSOR)), "its scales are stored as float8"),
        (Spec(Int(4), per_group(32), scale=Spec(PowerOfTwo())), "its scales are stored as power of two"),
        (Spec(Float8(Float8Kind.E5M2), PER_ROW), "its codes are float8 e5m2"),
        (Spec(Float8()), "has no scale"),
        (Spec(Int(1), per_group(16)), "its codes have 1 bit"),
        (Spec(UINT4, per_group(16)), "without a zero"),
        (Spec(UINT4, per_group(16), zero=Spec(Float())), "its zeros are stored as float32"),
        (Spec(UINT4, per_group(16), zero=Spec(Int(8, signed=False))), "its zeros are stored as uint8"),
        (Spec(UINT4, per_group(16), zero=Spec(Int(4))), "its zeros are stored as int4"),
        (Spec(Int(4), PER_TENSOR), "one scale per tensor"),
        (Spec(Int(4), per_block(8, 16)), "one scale per block of 8 x 16"),
        (Spec(Float8(), per_group(16)), "one scale per group of 16"),
        (Spec(Float8(), Tile(None, 16)), "one scale per block of all x 16"),
        (Spec(Float8(), Tile(8, None)), "one scale per block of 8 x all"),
        (Spec(Float8(), PER_ROW, zero=Spec(Float())), "8-bit floats have zeros"),
    ],
)
def test_what_it_cannot_hold_is_refused_by_the_part_that_does_not_fit(spec: Spec, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        find_scheme(spec)
