"""The formats in the conformance table, and the bit stream that codes are packed into."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bitwright import numerics
from bitwright.numerics import Float, Format
from bitwright.numerics.format import pack_bits, unpack_bits
from conformance.formats import CHECKS, FORMATS


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_format_conforms(check: Callable[[Format], None], form: Format) -> None:
    check(form)


def test_every_exported_format_is_in_the_table() -> None:
    exported = {vars(numerics)[name] for name in numerics.__all__}
    classes = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, Format)} - {Format, Float}
    constants = {one for one in exported if isinstance(one, Format)}
    assert classes == {type(form) for form in FORMATS}
    assert constants <= set(FORMATS)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 250])
def test_packed_codes_are_one_little_endian_number(bits: int, count: int) -> None:
    codes = torch.randint(2**bits, (count,), dtype=torch.uint8)
    number = sum(code << (i * bits) for i, code in enumerate(codes.tolist()))
    stored = pack_bits(codes, bits)
    assert bytes(stored.tolist()) == number.to_bytes((count * bits + 7) // 8, "little")
    assert torch.equal(unpack_bits(stored, bits, count), codes)


def test_packing_does_not_alias_the_codes() -> None:
    codes = torch.arange(8, dtype=torch.uint8)
    pack_bits(codes, 8)[0] = 99
    unpack_bits(codes, 8, 8)[1] = 99
    assert codes.tolist() == list(range(8))


def test_numbers_of_a_whole_float_cannot_be_listed() -> None:
    with pytest.raises(ValueError, match="at most 8 bits"):
        Float().values()
