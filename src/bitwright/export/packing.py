"""Codes in 32-bit words, row by row.

Code j of a row takes bits [b * j, b * (j + 1)) of that row, lowest bit first; a code may straddle two words, and every
row begins with a new word. For widths that divide 32 this is the padded layout of older software, too.
"""

from __future__ import annotations

import torch
from jaxtyping import Int32, UInt8
from torch import Tensor

from bitwright.numerics.format import pack_bits


def pack_rows(codes: UInt8[Tensor, "rows cols"], bits: int) -> Int32[Tensor, "rows words"]:
    """Codes below 2**bits as words: ceil(cols * bits / 32) of them for each row."""
    rows, cols = codes.shape
    padded = torch.nn.functional.pad(codes, (0, -cols % 32))  # 32 codes fill exactly `bits` words
    words = pack_bits(padded, bits).view(torch.int32).reshape(rows, -1)
    return words[:, : -(-cols * bits // 32)].contiguous()


def pack_columns(codes: UInt8[Tensor, "rows cols"], bits: int) -> Int32[Tensor, "words cols"]:
    """The same along the first axis: every column begins with a new word."""
    return pack_rows(codes.T.contiguous(), bits).T.contiguous()
