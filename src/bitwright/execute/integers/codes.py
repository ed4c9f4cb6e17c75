"""Tensors of codes as a file holds them, and the ways from numbers and sums to codes.

Rounding is to the nearest whole number, halves to even, in float32, as engines do it: the order of operations decides
which of two codes a number on the edge gets, so it is part of the meaning here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int32, Integer, Shaped
from torch import Tensor

WIDTH = 2**32


@final
@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """`value = (code - zero) * scale`; scale and zero have one element, or one for each place along `axis`."""

    codes: Integer[Tensor, "..."]
    scale: Float[Tensor, "..."]
    zero: Integer[Tensor, "..."]
    axis: int = 0

    @property
    def is_per_tensor(self) -> bool:
        """Whether one scale holds for all."""
        return self.scale.numel() == 1

    def moved(self, up: int) -> Codes:
        """The same values in unsigned codes, from signed ones that lie so far below."""
        return Codes((self.codes.short() + up).to(torch.uint8), self.scale, self.zero.short() + up, self.axis)

    def centred(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "..."]:
        """`code - zero`, exact."""
        zero = along(self.zero.to(dtype), self.codes.dim(), self.axis)
        return self.codes.to(dtype) - zero

    def dequantize(self) -> Float[Tensor, "..."]:
        """The values, float32."""
        if self.codes.dtype == torch.int32:
            whole = (self.codes - along(self.zero.int(), self.codes.dim(), self.axis)).float()
        else:
            whole = self.centred()
        return whole * along(self.scale, self.codes.dim(), self.axis)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Quantizer:
    """Where codes go: one scale, one zero, and the type they are stored in."""

    scale: Float[Tensor, ""]
    zero: int
    dtype: torch.dtype

    @property
    def low(self) -> int:
        """The least code."""
        return torch.iinfo(self.dtype).min

    @property
    def high(self) -> int:
        """The greatest code."""
        return torch.iinfo(self.dtype).max

    def moved(self, up: int) -> Quantizer:
        """The same for unsigned codes that lie so far above these signed ones."""
        return Quantizer(self.scale, self.zero + up, torch.uint8)

    def quantize(self, values: Float[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """`round(value / scale) + zero`, saturated."""
        return self.rounded(values / self.scale)

    def rounded(self, steps: Float[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Codes of numbers counted in steps from zero; NaN becomes the least code."""
        inside = steps.nan_to_num(self.low - self.zero).clamp(self.low - self.zero, self.high - self.zero)
        return (inside.round() + self.zero).to(self.dtype)

    def shifted(self, whole: Integer[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Codes of whole numbers of steps."""
        return (whole + self.zero).clamp(self.low, self.high).to(self.dtype)


def along(numbers: Shaped[Tensor, "..."], dims: int, axis: int) -> Shaped[Tensor, "..."]:
    """One number for all, or one for each place along an axis, to be broadcast over a tensor of `dims` axes."""
    if numbers.numel() == 1:
        return numbers.reshape(())
    shape = [1] * dims
    shape[axis] = -1
    return numbers.reshape(shape)


def wrapped(sums: Shaped[Tensor, "..."]) -> Int32[Tensor, "..."]:
    """Whole numbers as the 32 bits of an accumulator hold them."""
    whole = sums.long()
    return ((whole + WIDTH // 2) % WIDTH - WIDTH // 2).int()
