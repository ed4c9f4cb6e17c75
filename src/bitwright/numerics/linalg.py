"""The one factorisation that error feedback needs, and what to do when it fails.

A Gram matrix H = X'X / T of layer inputs is rarely well conditioned: few rows, dead columns, one direction that
outweighs all others. `inverse_factor` damps it, factors it in float64 and returns the upper factor U of its inverse,
H^-1 = U'U. When the factorisation fails it damps harder, says so, and at last gives up: the caller then rounds to
nearest, which needs no Gram matrix. For wide layers (n = 11008: 0.97 GB in float64) memory is what limits, so all of it
happens inside one n x n matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

_LADDER = (1.0, 3.0, 10.0, 30.0, 100.0)
_BLOCK = 256  # columns factored or inverted at a time; the rest is matrix products
_STRIP = 512  # columns of a product with a triangular matrix made at a time


@dataclass(frozen=True, slots=True)
class InverseFactor:
    """U upper triangular with (H + damping I)^-1 = U'U, float32 [n, n]; `damping` absolute; `notes` name fallbacks."""

    upper: Float[Tensor, "n n"]
    damping: float
    notes: tuple[str, ...] = ()


def is_finite(matrix: Float[Tensor, "m n"]) -> bool:
    """Whether no number is NaN or infinite; without a copy, which `torch.isfinite` makes."""
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(matrix)) if matrix.numel() else True


def dead_columns(gram: Float[Tensor, "n n"]) -> Bool[Tensor, "n"]:
    """Inputs that were zero in every calibration token."""
    return gram.diagonal() <= 0


def revived_diagonal(gram: Float[Tensor, "n n"]) -> Float[Tensor, "n"]:
    """The diagonal in float64; dead columns get the mean of the live ones, so that the matrix can be factored."""
    diagonal = gram.diagonal().double()
    dead = dead_columns(gram)
    alive = diagonal[~dead]
    return torch.where(dead, alive.mean() if alive.numel() else torch.ones((), dtype=torch.float64), diagonal)


def inverse_factor(
    gram: Float[Tensor, "n n"], damp: float, order: Int64[Tensor, "n"] | None = None
) -> InverseFactor | None:
    """The factor of the inverse of gram + damp * mean(diagonal) * I, its rows and columns taken in this order.

    None where no damping on the ladder helps. Holds one float64 matrix at a time, beside the result.

    Source: GPTQ (Frantar 2022), step 3. Differs: H = R R' is factored from its last row upwards and R inverted, so
    that the inverse of H is never formed; float64, in place; the damping climbs a ladder, each rung named in the notes.
    """
    if not is_finite(gram):
        return None
    order = torch.arange(len(gram)) if order is None else order
    diagonal = revived_diagonal(gram)
    for rung in _LADDER:
        damping = damp * float(diagonal.mean()) * rung
        work = _rearranged(gram, order.flip(0))
        work.diagonal().copy_(diagonal[order.flip(0)] + damping)
        if not cholesky_in_place(work):
            continue
        invert_in_place(work)
        if bool(torch.isfinite(work.diagonal()).all()):
            notes = () if rung == 1.0 else (f"Gram matrix not positive definite: damping x{rung:g}",)
            return InverseFactor(_flipped(work), damping, notes)
    return None


def _rearranged(gram: Tensor, order: Tensor) -> Tensor:
    """Rows and columns in this order, float64; a few rows at a time."""
    found = torch.empty(gram.shape, dtype=torch.float64)
    for start in range(0, len(gram), _BLOCK):
        found[start : start + _BLOCK] = gram[order[start : start + _BLOCK]][:, order]
    return found


def _flipped(lower: Tensor) -> Tensor:
    """Both axes reversed, which makes an upper triangle of the lower one, float32; a few rows at a time."""
    size = len(lower)
    found = torch.empty(lower.shape)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        found[size - stop : size - start] = lower[start:stop].float().flip(0, 1)
    return found


def cholesky_in_place(matrix: Float[Tensor, "n n"]) -> bool:
    """Overwrite a positive definite float64 matrix with its lower Cholesky factor; False (and spoilt) if it is not.

    Source: right-looking blocked Cholesky (Golub and Van Loan, 4.2.9).
    """
    for start in range(0, len(matrix), _BLOCK):
        stop = min(start + _BLOCK, len(matrix))
        corner, status = torch.linalg.cholesky_ex(matrix[start:stop, start:stop])
        if int(status) != 0 or not bool(torch.isfinite(corner).all()):
            return False
        matrix[start:stop, start:stop] = corner
        below = torch.linalg.solve_triangular(corner, matrix[stop:, start:stop].mT, upper=False).mT
        matrix[stop:, start:stop] = below
        matrix[:start, start:stop] = 0
        for row in range(stop, len(matrix), 8 * _BLOCK):  # the lower triangle only, in wide strips
            end = min(row + 8 * _BLOCK, len(matrix))
            matrix[row:end, stop:end].addmm_(below[row - stop : end - stop], below[: end - stop].mT, alpha=-1)
    return True


def invert_in_place(lower: Float[Tensor, "n n"]) -> None:
    """Overwrite a lower triangular float64 matrix with its inverse, some rows at a time from the top."""
    for start in range(0, len(lower), _BLOCK):
        stop = min(start + _BLOCK, len(lower))
        eye = torch.eye(stop - start, dtype=torch.float64)
        corner = torch.linalg.solve_triangular(lower[start:stop, start:stop], eye, upper=False)
        left = -(corner @ lower[start:stop, :start])
        for col in range(0, start, 8 * _BLOCK):  # below the diagonal only, in wide strips
            end = min(col + 8 * _BLOCK, start)
            lower[start:stop, col:end] = left[:, col:] @ lower[col:start, col:end]
        lower[start:stop, start:stop] = corner


def times_factor(rows: Float[Tensor, "m n"], upper: Float[Tensor, "n n"]) -> Float[Tensor, "m n"]:
    """rows @ upper for an upper triangular matrix, at little more than half the operations of a full product."""
    found = torch.empty_like(rows)
    for start in range(0, len(upper), _STRIP):
        stop = start + _STRIP
        found[:, start:stop] = rows[:, :stop] @ upper[:stop, start:stop]
    return found


def times_factor_transposed(rows: Float[Tensor, "m n"], upper: Float[Tensor, "n n"]) -> Float[Tensor, "m n"]:
    """rows @ upper.T likewise."""
    found = torch.empty_like(rows)
    for start in range(0, len(upper), _STRIP):
        stop = start + _STRIP
        found[:, start:stop] = rows[:, start:] @ upper[start:stop, start:].mT
    return found
