"""Any finite list of numbers as a format: NF4, ternary, binary, or a table of the user's own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from bitwright.numerics.format import Format, pack_bits, unpack_bits


@final
@dataclass(frozen=True, slots=True)
class Grid(Format):
    """The numbers `points` (ascending, at most 256); the code is the index. Ties go to the lower index."""

    points: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.points) <= 256:
            raise ValueError(f"a grid has 2 to 256 points; found {len(self.points)}")
        if any(not math.isfinite(p) for p in self.points) or list(self.points) != sorted(set(self.points)):
            raise ValueError("the points of a grid are finite, distinct and in ascending order")

    @property
    def bits(self) -> int:
        return max(1, math.ceil(math.log2(len(self.points))))

    @property
    def low(self) -> float:
        return self.points[0]

    @property
    def high(self) -> float:
        return self.points[-1]

    @property
    def tiny(self) -> float:
        return min((p for p in self.points if p > 0), default=1.0)

    def encode(self, scaled: Float[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        points = self.values().double()
        exact = (points[1:] + points[:-1]) / 2
        middles = exact.to(scaled.dtype)  # rounded down, so that what lies above the exact middle stays above it
        middles = torch.where(middles > exact, torch.nextafter(middles, middles - 1), middles)
        return torch.bucketize(scaled.nan_to_num(0.0).contiguous(), middles).to(torch.uint8)

    def decode(self, codes: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.tensor(self.points, dtype=torch.float32)[codes.to(torch.int64)]

    def pack(self, codes: Shaped[Tensor, "..."]) -> Shaped[Tensor, "stored"]:
        return pack_bits(codes, self.bits)

    def unpack(self, stored: Shaped[Tensor, "stored"], shape: tuple[int, ...]) -> Shaped[Tensor, "..."]:
        return unpack_bits(stored, self.bits, torch.Size(shape).numel()).reshape(shape)

    def values(self) -> Float[Tensor, "count"]:
        return torch.tensor(self.points, dtype=torch.float32)

    def __str__(self) -> str:
        names = {NF4.points: "NF4", TERNARY.points: "ternary", BINARY.points: "binary"}
        return names.get(self.points, f"grid of {len(self.points)}")


# Quantiles of the normal distribution, rescaled to [-1, 1]. Source: QLoRA (Dettmers 2023), appendix E.
NF4 = Grid(
    (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334)
    + (-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224)
    + (0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
)
TERNARY = Grid((-1.0, 0.0, 1.0))
BINARY = Grid((-1.0, 1.0))
