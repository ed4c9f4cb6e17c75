"""Triangular matrices in strips of rows that are no longer than they have to be.

A triangle takes little more than half of the square that it would be stored in. Where a strip reaches over the diagonal
a few numbers are held that do not belong to the triangle; those are zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

ROWS = 1024  # of a strip
_BLOCK = 256  # columns factored or inverted at a time; the rest is matrix products


@final
class Lower:
    """A lower triangle [n, n], float64: strips of rows, each as wide as its last row is long. The first may be short.

    `of` makes one that stands for a symmetric matrix, whose numbers over the diagonal are not zeros; `factor` makes it
    a triangle.
    """

    __slots__ = ("size", "strips")

    def __init__(self, strips: list[Float64[Tensor, "_ _"]]) -> None:
        self.strips, self.size = strips, strips[-1].shape[1]

    @classmethod
    def of(cls, matrix: Float[Tensor, "n n"], order: Int64[Tensor, "n"], diagonal: Float64[Tensor, "n"]) -> Lower:
        """Half of a symmetric matrix with rows and columns in this order and this diagonal, which is in the old one."""
        strips = []
        for end in range((len(matrix) - 1) % ROWS + 1, len(matrix) + 1, ROWS):
            top = max(0, end - ROWS)
            strip = torch.empty(end - top, end, dtype=torch.float64)
            for start in range(top, end, _BLOCK):
                stop = min(start + _BLOCK, end)
                strip[start - top : stop - top] = matrix[order[start:stop]][:, order[:end]]
            strip[:, top:].diagonal().copy_(diagonal[order[top:end]])
            strips.append(strip)
        return cls(strips)

    def factor(self) -> bool:
        """Overwrite a positive definite matrix with its Cholesky factor; False (and spoilt) if it is not.

        Source: right-looking blocked Cholesky (Golub and Van Loan, 4.2.9).
        """
        for place, start, stop in self._blocks():
            strip, top = self.strips[place], self._top(place)
            corner, status = torch.linalg.cholesky_ex(strip[start - top : stop - top, start:stop])
            if int(status) != 0 or not bool(torch.isfinite(corner).all()):
                return False
            strip[start - top : stop - top, start:stop] = corner
            strip[: start - top, start:stop] = 0
            behind = [(place, strip[stop - top :]), *enumerate(self.strips[place + 1 :], place + 1)]
            column = torch.cat([rows[:, start:stop] for _, rows in behind])
            below = torch.linalg.solve_triangular(corner, column.mT, upper=False).mT
            for other, rows in behind:
                end = self.strips[other].shape[1]
                part = below[end - len(rows) - stop : end - stop]
                rows[:, start:stop] = part
                rows[:, stop:].addmm_(part, below[: end - stop].mT, alpha=-1)
        return True

    def invert(self) -> None:
        """Overwrite the triangle with its inverse, some rows at a time from the top."""
        for place, start, stop in self._blocks():
            top = self._top(place)
            rows = self.strips[place][start - top : stop - top]
            eye = torch.eye(stop - start, dtype=torch.float64)
            corner = torch.linalg.solve_triangular(rows[:, start:stop], eye, upper=False)
            left = -(corner @ rows[:, :start])
            rows[:, :start] = 0
            rows[:, start:stop] = corner
            for above in [*self.strips[:place], self.strips[place][: start - top, :start]]:
                end = above.shape[1]
                rows[:, :end].addmm_(left[:, end - len(above) : end], above)

    def is_sound(self) -> bool:
        """Whether the diagonal is finite."""
        ends = (self.strips[place][:, self._top(place) :].diagonal() for place in range(len(self.strips)))
        return all(bool(torch.isfinite(end).all()) for end in ends)

    def take_reversed(self) -> Upper:
        """Both axes reversed, which makes an upper triangle of it; the strips are given up on the way."""
        found = []
        while self.strips:
            found.append(self.strips.pop().float().flip(0, 1))
        return Upper(found)

    def _top(self, place: int) -> int:
        """The first row of a strip."""
        return self.strips[place].shape[1] - len(self.strips[place])

    def _blocks(self) -> Iterator[tuple[int, int, int]]:
        """Ranges of rows, and the strip that they lie in."""
        for place, strip in enumerate(self.strips):
            end = strip.shape[1]
            for start in range(self._top(place), end, _BLOCK):
                yield place, start, min(start + _BLOCK, end)


@final
class Upper:
    """An upper triangle [n, n], float32: strips of rows from the first row's diagonal on; the last one may be short."""

    __slots__ = ("size", "strips")

    def __init__(self, strips: list[Float[Tensor, "_ _"]]) -> None:
        self.strips, self.size = strips, strips[0].shape[1]

    def diagonal(self) -> Float[Tensor, "n"]:
        """The numbers on it."""
        return torch.cat([strip.diagonal() for strip in self.strips])

    def part(self, rows: slice, cols: slice) -> Float[Tensor, "rows cols"]:
        """These rows and columns; no column is before the first of these rows."""
        assert rows.start <= cols.start
        found = []
        for place in range(rows.start // ROWS, -(-rows.stop // ROWS)):
            top = place * ROWS
            inside = self.strips[place][max(0, rows.start - top) : rows.stop - top]
            found.append(inside[:, max(0, cols.start - top) : cols.stop - top])
        return found[0] if len(found) == 1 else _aligned(found)

    def after(self, rows: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
        """rows @ self, at little more than half the operations of a full product."""
        found = torch.zeros_like(rows)
        for place, strip in enumerate(self.strips):
            top = place * ROWS
            found[:, top:].addmm_(rows[:, top : top + len(strip)], strip)
        return found

    def transposed_after(self, rows: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
        """rows @ self.T likewise."""
        found = torch.empty_like(rows)
        for place, strip in enumerate(self.strips):
            top = place * ROWS
            torch.mm(rows[:, top:], strip.mT, out=found[:, top : top + len(strip)])
        return found


def _aligned(parts: list[Tensor]) -> Tensor:
    """Parts of several strips; where one begins further to the right, what is missing are zeros."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (width - part.shape[1], 0)) for part in parts])
