"""Floating-point formats: the 8-bit and 4-bit ones of today's hardware, powers of two, and whole floats for scales.

`Float8` and `E2M1` are sets of few numbers, so they are cast to. `Float` (float32, float16, bfloat16) is how scales
and real zeros are stored. Casts saturate in our own hands, because what a framework does beyond the largest number
(NaN, infinity or the largest number) differs between its versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import final

import torch
from jaxtyping import Float as FloatArray
from jaxtyping import Shaped
from torch import Tensor

from bitwright.numerics.format import Format, pack_bits, unpack_bits


class Float8Kind(Enum):
    """The two 8-bit layouts: 4 exponent and 3 fraction bits without infinities, or 5 and 2."""

    E4M3FN = "e4m3fn"
    E5M2 = "e5m2"

    @property
    def dtype(self) -> torch.dtype:
        """The torch type with the same bits."""
        return torch.float8_e4m3fn if self is Float8Kind.E4M3FN else torch.float8_e5m2


@final
@dataclass(frozen=True, slots=True)
class Float8(Format):
    """8-bit floats; codes are the bit patterns (uint8). Source: OCP 8-bit floating point specification 1.0."""

    kind: Float8Kind = Float8Kind.E4M3FN

    @property
    def bits(self) -> int:
        return 8

    @property
    def low(self) -> float:
        return -self.high

    @property
    def high(self) -> float:
        return 448.0 if self.kind is Float8Kind.E4M3FN else 57344.0

    @property
    def tiny(self) -> float:
        return 2.0**-9 if self.kind is Float8Kind.E4M3FN else 2.0**-16

    def encode(self, scaled: FloatArray[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        safe = scaled.float().nan_to_num(nan=0.0, posinf=self.high, neginf=self.low).clamp(self.low, self.high)
        return safe.to(self.kind.dtype).view(torch.uint8)

    def decode(self, codes: Shaped[Tensor, "..."]) -> FloatArray[Tensor, "..."]:
        values = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(self.kind.dtype).float()
        return values.nan_to_num(nan=0.0, posinf=self.high, neginf=self.low)[codes.to(torch.int64)]

    def pack(self, codes: Shaped[Tensor, "..."]) -> Shaped[Tensor, "stored"]:
        return codes.flatten()

    def unpack(self, stored: Shaped[Tensor, "stored"], shape: tuple[int, ...]) -> Shaped[Tensor, "..."]:
        return stored.reshape(shape)

    def __str__(self) -> str:
        return f"float8 {self.kind.value}"


@final
@dataclass(frozen=True, slots=True)
class PowerOfTwo(Format):
    """2**(code - 127) for codes 0 to 254 (E8M0, the scale of the MX formats). Source: OCP Microscaling 1.0, 5.4.

    Differs: values at or below 2**-127 take code 0; the NaN code 255 is never written. Rounds to the nearest exponent
    of the logarithm, which is what bounds the relative error.
    """

    @property
    def bits(self) -> int:
        return 8

    @property
    def low(self) -> float:
        return 2.0**-127

    @property
    def high(self) -> float:
        return 2.0**127

    @property
    def tiny(self) -> float:
        return 2.0**-127

    def encode(self, scaled: FloatArray[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        exponent = torch.log2(scaled.double().clamp(self.low, self.high)).round().nan_to_num(0.0)
        return (exponent + 127).clamp(0, 254).to(torch.uint8)

    def decode(self, codes: Shaped[Tensor, "..."]) -> FloatArray[Tensor, "..."]:
        return torch.exp2(codes.double() - 127).float()

    def pack(self, codes: Shaped[Tensor, "..."]) -> Shaped[Tensor, "stored"]:
        return codes.flatten()

    def unpack(self, stored: Shaped[Tensor, "stored"], shape: tuple[int, ...]) -> Shaped[Tensor, "..."]:
        return stored.reshape(shape)

    def values(self) -> FloatArray[Tensor, "count"]:
        return self.decode(torch.arange(255, dtype=torch.int16).to(torch.uint8))

    def __str__(self) -> str:
        return "power of two"


@final
@dataclass(frozen=True, slots=True)
class E2M1(Format):
    """4-bit floats {0, .5, 1, 1.5, 2, 3, 4, 6} and a sign bit; codes are bit patterns. Source: OCP MX 1.0, 5.3.3."""

    @property
    def bits(self) -> int:
        return 4

    @property
    def low(self) -> float:
        return -6.0

    @property
    def high(self) -> float:
        return 6.0

    @property
    def tiny(self) -> float:
        return 0.5

    def encode(self, scaled: FloatArray[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        # half-way points; every second one a hair lower, so that ties go to the even code
        middles = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
        middles[1::2] = torch.nextafter(middles[1::2], torch.zeros(3))
        code = torch.bucketize(scaled.float().nan_to_num(0.0).abs().contiguous(), middles)
        return code.to(torch.uint8) | ((scaled < 0).to(torch.uint8) << 3)

    def decode(self, codes: Shaped[Tensor, "..."]) -> FloatArray[Tensor, "..."]:
        size = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
        return torch.cat([size, -size])[codes.to(torch.int64)]

    def pack(self, codes: Shaped[Tensor, "..."]) -> Shaped[Tensor, "stored"]:
        return pack_bits(codes, 4)

    def unpack(self, stored: Shaped[Tensor, "stored"], shape: tuple[int, ...]) -> Shaped[Tensor, "..."]:
        return unpack_bits(stored, 4, torch.Size(shape).numel()).reshape(shape)

    def __str__(self) -> str:
        return "float4 e2m1"


class FloatKind(Enum):
    """Whole floats; `CHECKPOINT` stands for the checkpoint's own 16-bit type until a plan names it."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    CHECKPOINT = "checkpoint"

    @property
    def dtype(self) -> torch.dtype:
        """The torch type; raises ValueError for `CHECKPOINT`, which a plan must have resolved."""
        if self is FloatKind.CHECKPOINT:
            raise ValueError("a scale in the checkpoint's own float type is not resolved yet; call Spec.resolve(dtype)")
        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[self.value]


@final
@dataclass(frozen=True, slots=True)
class Float(Format):
    """A whole float, for scales and real zeros; codes are the numbers themselves."""

    kind: FloatKind = FloatKind.FLOAT32

    @property
    def bits(self) -> int:
        return 32 if self.kind is FloatKind.FLOAT32 else 16

    @property
    def low(self) -> float:
        return -self.high

    @property
    def high(self) -> float:
        return torch.finfo(self.kind.dtype).max

    @property
    def tiny(self) -> float:
        return torch.finfo(self.kind.dtype).tiny

    def encode(self, scaled: FloatArray[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        return scaled.nan_to_num(nan=0.0).clamp(self.low, self.high).to(self.kind.dtype)

    def decode(self, codes: Shaped[Tensor, "..."]) -> FloatArray[Tensor, "..."]:
        return codes.float()

    def pack(self, codes: Shaped[Tensor, "..."]) -> Shaped[Tensor, "stored"]:
        return codes.flatten()

    def unpack(self, stored: Shaped[Tensor, "stored"], shape: tuple[int, ...]) -> Shaped[Tensor, "..."]:
        return stored.reshape(shape)

    def __str__(self) -> str:
        return self.kind.value
