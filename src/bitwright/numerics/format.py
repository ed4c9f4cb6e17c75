"""What one code can say.

A format is a finite set of numbers and nothing else: it turns scaled values into codes and codes into values. It knows
no scale, no tile and no method. Every cast saturates: a value beyond the largest number becomes the largest number,
so no code ever decodes to NaN or infinity. One equation for the whole library: value = (code - zero) * scale.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor


class Format(ABC):
    """A set of representable numbers with a code for each."""

    __slots__ = ()

    @property
    @abstractmethod
    def bits(self) -> int:
        """Stored bits of one code."""

    @property
    @abstractmethod
    def low(self) -> float:
        """The smallest representable number."""

    @property
    @abstractmethod
    def high(self) -> float:
        """The largest representable number."""

    @property
    @abstractmethod
    def tiny(self) -> float:
        """The smallest positive representable number: what a scale stored in this format may not fall below."""

    @abstractmethod
    def encode(self, scaled: Float[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Codes of the nearest representable numbers (ties to even, saturating); NaN becomes the code of zero."""

    @abstractmethod
    def decode(self, codes: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The numbers (float32) that these codes stand for."""

    @abstractmethod
    def pack(self, codes: Shaped[Tensor, "..."]) -> Shaped[Tensor, "stored"]:
        """The codes as they lie on disk; exactly what `bits` counts, rounded up to whole bytes."""

    @abstractmethod
    def unpack(self, stored: Shaped[Tensor, "stored"], shape: tuple[int, ...]) -> Shaped[Tensor, "..."]:
        """The inverse of `pack`."""

    def nearest(self, scaled: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The nearest representable numbers."""
        return self.decode(self.encode(scaled))

    def values(self) -> Float[Tensor, "count"]:
        """All representable numbers in ascending order (formats of at most 8 bits)."""
        if self.bits > 8:
            raise ValueError(f"{self} has too many numbers to list; only formats of at most 8 bits can be listed")
        count = 1 << self.bits
        every = self.unpack(pack_bits(torch.arange(count).to(torch.uint8), self.bits), (count,))
        found: Tensor = torch.unique(self.decode(every))
        return found


def pack_bits(codes: UInt8[Tensor, "..."], bits: int) -> UInt8[Tensor, "stored"]:
    """A dense bit stream of codes below 2**bits: code i lies at bits [i * bits, (i + 1) * bits), lowest bit first."""
    flat = codes.flatten()
    if bits == 8:
        return flat.clone()
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).reshape(-1, 8).to(torch.int64)
    shifts = torch.arange(8) * bits
    words = (padded << shifts).sum(1)  # eight codes fill exactly `bits` bytes
    stored = (words[:, None] >> (torch.arange(bits) * 8)) & 255
    return stored.to(torch.uint8).flatten()[: -(-flat.numel() * bits // 8)]


def unpack_bits(stored: UInt8[Tensor, "stored"], bits: int, count: int) -> UInt8[Tensor, "count"]:
    """The first `count` codes of a bit stream made by `pack_bits`."""
    if bits == 8:
        return stored[:count].clone()
    padded = torch.nn.functional.pad(stored, (0, -stored.numel() % bits)).reshape(-1, bits).to(torch.int64)
    words = (padded << (torch.arange(bits) * 8)).sum(1)
    codes = (words[:, None] >> (torch.arange(8) * bits)) & ((1 << bits) - 1)
    return codes.to(torch.uint8).flatten()[:count]
