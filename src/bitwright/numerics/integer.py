"""Integers of one to eight bits, signed (two's complement range) or unsigned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from bitwright.numerics.format import Format, pack_bits, unpack_bits


@final
@dataclass(frozen=True, slots=True)
class Int(Format):
    """The integers [-2**(width-1), 2**(width-1) - 1] if signed, else [0, 2**width - 1]; codes are the integers."""

    width: int
    signed: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 8:
            raise ValueError(f"an integer format has 1 to 8 bits; found {self.width}")

    @property
    def bits(self) -> int:
        return self.width

    @property
    def low(self) -> float:
        return float(-(1 << (self.width - 1))) if self.signed else 0.0

    @property
    def high(self) -> float:
        return self.low + (1 << self.width) - 1

    @property
    def tiny(self) -> float:
        return 1.0

    def encode(self, scaled: Float[Tensor, "..."]) -> Integer[Tensor, "..."]:
        rounded = scaled.round().nan_to_num_(0.0).clamp_(self.low, self.high)
        return rounded.to(torch.int8 if self.signed else torch.uint8)

    def decode(self, codes: Integer[Tensor, "..."]) -> Float[Tensor, "..."]:
        return codes.to(torch.float32)

    def nearest(self, scaled: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return scaled.round().nan_to_num_(0.0).clamp_(self.low, self.high)

    def pack(self, codes: Integer[Tensor, "..."]) -> Shaped[Tensor, "stored"]:
        return pack_bits((codes.to(torch.int16) - int(self.low)).to(torch.uint8), self.width)

    def unpack(self, stored: Shaped[Tensor, "stored"], shape: tuple[int, ...]) -> Integer[Tensor, "..."]:
        codes = unpack_bits(stored, self.width, torch.Size(shape).numel()).to(torch.int16) + int(self.low)
        return codes.to(torch.int8 if self.signed else torch.uint8).reshape(shape)

    def __str__(self) -> str:
        return f"{'int' if self.signed else 'uint'}{self.width}"
