"""Floats of 4 and 8 bits against tables made from their specifications; whole floats against struct."""

from __future__ import annotations

import math
import struct

import pytest
import torch

from bitwright.numerics import E2M1, Float, Float8, Float8Kind, FloatKind, PowerOfTwo
from conformance import references


def test_largest_numbers_are_those_of_the_specifications() -> None:
    assert Float8(Float8Kind.E4M3FN).high == 448
    assert Float8(Float8Kind.E5M2).high == 57344
    assert E2M1().high == 6
    assert PowerOfTwo().high == 2.0**127


@pytest.mark.parametrize(("kind", "count"), [(Float8Kind.E4M3FN, 253), (Float8Kind.E5M2, 247)])
def test_float8_has_exactly_the_finite_numbers_of_its_table(kind: Float8Kind, count: int) -> None:
    decode = references.e4m3 if kind is Float8Kind.E4M3FN else references.e5m2
    table = sorted({value for value in map(decode, range(256)) if math.isfinite(value)})
    assert len(table) == count
    assert Float8(kind).values().tolist() == table


def test_e2m1_has_fifteen_numbers() -> None:
    assert E2M1().values().tolist() == [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]


def ties_to_even(form: E2M1 | Float8, sign: float) -> tuple[list[float], list[float]]:
    """Every half-way point between neighbours of one sign, and the neighbour whose code is even."""
    decode = (lambda code: references.decode_one(form, code)) if isinstance(form, E2M1) else references.e4m3
    size = 8 if isinstance(form, E2M1) else 127
    middles = [sign * (decode(code) + decode(code + 1)) / 2 for code in range(size - 1)]
    return middles, [sign * decode(code + code % 2) for code in range(size - 1)]


@pytest.mark.parametrize("form", [E2M1(), Float8()], ids=str)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_ties_go_to_the_even_code(form: E2M1 | Float8, sign: float) -> None:
    middles, even = ties_to_even(form, sign)
    assert form.nearest(torch.tensor(middles)).tolist() == even


def test_e2m1_ties_are_those_of_the_ocp_table() -> None:
    ties = {0.25: 0, 0.75: 1, 1.25: 1, 1.75: 2, 2.5: 2, 3.5: 4, 5.0: 4}
    assert E2M1().nearest(torch.tensor(list(ties))).tolist() == list(ties.values())


@pytest.mark.parametrize("kind", list(Float8Kind))
def test_codes_that_are_no_numbers_decode_to_finite_values(kind: Float8Kind) -> None:
    every = torch.arange(256, dtype=torch.int16).to(torch.uint8)
    assert bool(torch.isfinite(Float8(kind).decode(every)).all())


def test_power_of_two_takes_the_nearest_exponent() -> None:
    wanted = torch.tensor([1.0, 1.41, 1.42, 2.0, 0.7, 0.71, 2.0**-140, 0.0, -3.0])
    expected = [1, 1, 2, 2, 0.5, 1, 2.0**-127, 2.0**-127, 2.0**-127]
    assert PowerOfTwo().nearest(wanted).tolist() == expected
    assert PowerOfTwo().encode(torch.tensor([1.0, 2.0**127])).tolist() == [127, 254]


@pytest.mark.parametrize("kind", [FloatKind.FLOAT16, FloatKind.BFLOAT16, FloatKind.FLOAT32])
def test_whole_floats_saturate_and_survive_packing(kind: FloatKind) -> None:
    form = Float(kind)
    found = form.nearest(torch.tensor([torch.inf, -torch.inf, torch.nan, 1e39, 1.0]))
    assert found.tolist() == [form.high, form.low, 0.0, form.high, 1.0]
    codes = form.encode(torch.randn(5, 3))
    assert torch.equal(form.unpack(form.pack(codes), (5, 3)), codes)
    assert form.pack(codes).element_size() * 8 == form.bits


def test_float16_rounds_as_struct_does() -> None:
    values = torch.randn(1000) * 100
    expected = [struct.unpack("e", struct.pack("e", value))[0] for value in values.tolist()]
    assert Float(FloatKind.FLOAT16).nearest(values).tolist() == expected


def test_the_checkpoints_own_float_has_to_be_resolved_first() -> None:
    with pytest.raises(ValueError, match="resolve"):
        Float(FloatKind.CHECKPOINT).encode(torch.ones(1))
