"""Specs in the words of compressed-tensors: type, bits, symmetric, strategy.

Only what that layout can hold to the bit has a scheme; everything else is an ExportError that says which part of the
spec it is. No spec is converted into a neighbouring one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitwright.export.exporter import ExportError
from bitwright.numerics import Float, Float8, Float8Kind, Int, Spec, Tile

WIDTHS = range(2, 9)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one kind of weight is stored. `tile` decides the strategy."""

    bits: int
    is_float: bool
    is_symmetric: bool
    tile: Tile

    @property
    def format(self) -> str:
        """The name of the layout."""
        return "float-quantized" if self.is_float else "pack-quantized"

    @property
    def strategy(self) -> str:
        """Who shares a scale."""
        match self.tile.rows, self.tile.cols:
            case None, None:
                return "tensor"
            case 1, None:
                return "channel"
            case 1, _:
                return "group"
        return "block"

    def scale_shape(self, shape: tuple[int, int]) -> tuple[int, ...]:
        """The shape in which the scales of a matrix of this shape are stored."""
        return (1,) if self.strategy == "tensor" else self.tile.count(shape)

    def weights(self) -> Mapping[str, Any]:
        """The `weights` entry of a configuration group."""
        entry: dict[str, Any] = {
            "num_bits": self.bits,
            "type": "float" if self.is_float else "int",
            "symmetric": self.is_symmetric,
            "strategy": self.strategy,
            "group_size": self.tile.cols if self.strategy == "group" else None,
            "dynamic": False,
        }
        return entry | ({"block_structure": [self.tile.rows, self.tile.cols]} if self.strategy == "block" else {})


def find_scheme(spec: Spec) -> Scheme:
    """The scheme of a spec; ExportError if there is none."""
    tile = spec.tile
    if tile is None or spec.scale is None:
        raise ExportError(f"{spec} has no scale; compressed-tensors stores integers and 8-bit floats with scales")
    if not isinstance(spec.scale.format, Float) or spec.scale.tile is not None:
        raise ExportError(f"its scales are stored as {spec.scale}; compressed-tensors stores them as plain floats")
    match spec.format:
        case Int():
            return _integers(spec, spec.format, tile)
        case Float8(kind=Float8Kind.E4M3FN):
            return _floats(spec, tile)
    raise ExportError(f"its codes are {spec.format}; compressed-tensors holds int2 to int8 and float8 e4m3fn here")


def _integers(spec: Spec, form: Int, tile: Tile) -> Scheme:
    if form.width not in WIDTHS:
        raise ExportError(f"its codes have {form.width} bit; compressed-tensors holds integers of 2 to 8 bits")
    if spec.zero is None and not form.signed:
        raise ExportError(
            f"its codes are {form} without a zero; compressed-tensors counts symmetric codes from the middle"
        )
    if spec.zero is not None and spec.zero != Spec(form):
        raise ExportError(
            f"its zeros are stored as {spec.zero}; compressed-tensors stores them like the codes, as {form}"
        )
    if tile.rows != 1:
        raise ExportError(f"its integers have one scale {tile}; compressed-tensors packs them per group or per row")
    return Scheme(form.width, False, spec.zero is None, tile)


def _floats(spec: Spec, tile: Tile) -> Scheme:
    if spec.zero is not None:
        raise ExportError("its 8-bit floats have zeros; compressed-tensors stores floats without")
    scheme = Scheme(8, True, True, tile)
    is_open = (tile.rows is None) != (tile.cols is None)
    if scheme.strategy == "group" or (scheme.strategy == "block" and is_open):
        raise ExportError(
            f"its 8-bit floats have one scale {tile}; compressed-tensors holds one per row, per tensor, or per block"
        )
    return scheme
