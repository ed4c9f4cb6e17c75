"""Packed words hold every code where the layout says, whatever the width and however a row ends."""

import numpy as np
import pytest
import torch

from bitwright.export.packing import pack_columns, pack_rows
from export.decoder import unpack


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("cols", [1, 10, 31, 32, 33, 64, 100])
def test_rows_unpack_to_the_codes_they_were_made_of(bits: int, cols: int) -> None:
    codes = torch.randint(0, 2**bits, (5, cols), generator=torch.Generator().manual_seed(cols)).to(torch.uint8)
    words = pack_rows(codes, bits)
    assert words.shape == (5, -(-cols * bits // 32))
    assert np.array_equal(unpack(words.numpy(), bits, cols) + 2 ** (bits - 1), codes.numpy())


def test_a_code_that_straddles_two_words_is_split_lowest_bits_first() -> None:
    codes = torch.zeros(1, 11, dtype=torch.uint8)
    codes[0, 10] = 0b101  # of 3 bits, at bit 30
    assert [int(word) % 2**32 for word in pack_rows(codes, 3)[0]] == [0b01 << 30, 0b1]


def test_columns_are_packed_down_the_rows() -> None:
    codes = torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=torch.uint8)
    assert pack_columns(codes, 4).tolist() == [[0x531, 0x642]]
