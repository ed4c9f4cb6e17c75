"""What may be stored, and nothing about how to get there.

A spec names a format, the tile that shares a scale, and how the scale and the zero are themselves stored, with the
same noun again: NVFP4 is `Spec(E2M1(), per_group(16), scale=Spec(Float8(), PER_TENSOR))`. A spec without a tile has no
scale. Method (which fitter, which rounding) is no part of it, so an exporter never meets an observer's name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch

from bitwright.numerics.format import Format
from bitwright.numerics.minifloat import Float, FloatKind
from bitwright.numerics.tile import Tile


@final
@dataclass(frozen=True, slots=True)
class Spec:
    """How one tensor is stored. `tile` None: codes are the values. `zero` None: symmetric, zero is code 0."""

    format: Format
    tile: Tile | None = None
    scale: Spec | None = None
    zero: Spec | None = None

    def __post_init__(self) -> None:
        if self.tile is None and (self.scale is not None or self.zero is not None):
            raise ValueError("a spec without a tile has no scale and no zero; give it a tile")
        if self.tile is not None and self.scale is None:
            object.__setattr__(self, "scale", Spec(Float()))

    def resolve(self, dtype: torch.dtype) -> Spec:
        """This spec with the checkpoint's own 16-bit float named (bfloat16 for float32 checkpoints)."""
        own = FloatKind.FLOAT16 if dtype == torch.float16 else FloatKind.BFLOAT16
        form = Float(own) if self.format == Float(FloatKind.CHECKPOINT) else self.format
        scale = self.scale.resolve(dtype) if self.scale else None
        return Spec(form, self.tile, scale, self.zero.resolve(dtype) if self.zero else None)

    def bits(self, shape: tuple[int, int]) -> int:
        """Exact stored bits of a matrix of this shape: codes in whole bytes, scales and zeros included."""
        return sum(self.bits_by_part(shape))

    def bits_by_part(self, shape: tuple[int, int]) -> tuple[int, int, int]:
        """Stored bits of the codes, of the scales and of the zeros."""
        codes = -(-shape[0] * shape[1] * self.format.bits // 8) * 8
        if self.tile is None:
            return codes, 0, 0
        tiles = self.tile.count(shape)
        assert self.scale is not None
        return codes, self.scale.bits(tiles), self.zero.bits(tiles) if self.zero else 0

    def span(self, cols: int) -> int:
        """How many columns are fitted together: those whose scales share a scale."""
        if self.tile is None:
            return 1
        width = self.tile.size((1, cols))[1]
        assert self.scale is not None
        return width * self.scale.span(cols // width)

    def with_format(self, form: Format) -> Spec:
        """The same storage with other codes."""
        return replace(self, format=form)

    def __str__(self) -> str:
        text = f"{self.format}" + (f" {self.tile}" if self.tile else "")
        if self.tile is not None:
            text += f", scale {self.scale}"
        return text + (f", zero {self.zero}" if self.zero else "")
