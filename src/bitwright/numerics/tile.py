"""Who shares a scale.

A weight is a matrix [out, in]. A tile is the patch of it that shares one scale and one zero: the whole matrix, one row
(a channel), a group of columns inside a row, or a two-dimensional block. All four are one class with two numbers,
where `None` means "the whole axis". Tiles must divide the matrix exactly; a ragged last group is refused early.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tile:
    """The patch [rows, cols] that shares one scale; `None` is the whole axis."""

    rows: int | None = None
    cols: int | None = None

    def __post_init__(self) -> None:
        for size in (self.rows, self.cols):
            if size is not None and size < 1:
                raise ValueError(f"a tile has at least one row and one column; found {self.rows} x {self.cols}")

    def size(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of one tile of a matrix of this shape."""
        return (shape[0] if self.rows is None else self.rows, shape[1] if self.cols is None else self.cols)

    def count(self, shape: tuple[int, int]) -> tuple[int, int]:
        """How many tiles lie along each axis; raises ValueError where they do not divide it."""
        rows, cols = self.size(shape)
        for tile, axis, name in ((rows, shape[0], "rows"), (cols, shape[1], "columns")):
            if axis % tile:
                fits = ", ".join(str(n) for n in (256, 128, 64, 32, 16, 8) if axis % n == 0 and n <= axis)
                raise ValueError(
                    f"a tile of {tile} {name} does not divide {axis}; choose a divisor ({fits or 1}), "
                    "one scale per row, or keep this weight (--keep NAME, or a rule without weights)"
                )
        return shape[0] // rows, shape[1] // cols

    def split(self, matrix: Shaped[Tensor, "out in"]) -> Shaped[Tensor, "down across size"]:
        """The matrix as [tiles down, tiles across, elements of one tile]."""
        parts = self.apart(matrix).transpose(1, 2)
        return parts.reshape(parts.shape[0], parts.shape[1], -1)

    def apart(self, matrix: Shaped[Tensor, "out in"]) -> Shaped[Tensor, "down rows across cols"]:
        """The matrix as [tiles down, rows of a tile, tiles across, columns of a tile]; not a copy if contiguous."""
        down, across = self.count((matrix.shape[0], matrix.shape[1]))
        return matrix.reshape(down, matrix.shape[0] // down, across, matrix.shape[1] // across)

    def spread(self, values: Shaped[Tensor, "down across"], shape: tuple[int, int]) -> Shaped[Tensor, "out in"]:
        """One value per tile, repeated over the elements of that tile."""
        rows, cols = self.size(shape)
        return values.repeat_interleave(rows, 0).repeat_interleave(cols, 1)

    def __str__(self) -> str:
        match (self.rows, self.cols):
            case (None, None):
                return "per tensor"
            case (1, None):
                return "per row"
            case (1, cols):
                return f"per group of {cols}"
            case (rows, cols):
                return f"per block of {rows or 'all'} x {cols or 'all'}"


PER_TENSOR = Tile(None, None)
PER_ROW = Tile(1, None)


def per_group(size: int) -> Tile:
    """One scale for every `size` neighbouring columns of a row."""
    return Tile(1, size)


def per_block(rows: int, cols: int) -> Tile:
    """One scale for every patch of `rows` x `cols`."""
    return Tile(rows, cols)
