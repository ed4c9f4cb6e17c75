"""The one factorisation that error feedback needs, and what to do when it fails.

A Gram matrix H = X'X / T of layer inputs is rarely well conditioned: few rows, dead columns, one direction that
outweighs all others. `inverse_factor` damps it, factors it in float64 and returns the upper factor U of its inverse,
H^-1 = U'U. When the factorisation fails it damps harder, says so, and at last gives up: the caller then rounds to
nearest, which needs no Gram matrix. For wide layers (n = 11008: 0.97 GB in float64) memory is what limits, so of all
these matrices only triangles are held (`triangle.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from bitwright.numerics.triangle import Lower, Upper

_LADDER = (1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True, slots=True)
class InverseFactor:
    """U upper triangular with (H + damping I)^-1 = U'U, float32; `damping` absolute; `notes` name fallbacks."""

    upper: Upper
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

    None where no damping on the ladder helps. Holds half a float64 matrix at a time, beside the result.

    Source: GPTQ (Frantar 2022), step 3. Differs: H = R R' is factored from its last row upwards and R inverted, so
    that the inverse of H is never formed; float64, in place; the damping climbs a ladder, each rung named in the notes.
    """
    if not is_finite(gram):
        return None
    order = torch.arange(len(gram)) if order is None else order
    diagonal = revived_diagonal(gram)
    for rung in _LADDER:
        damping = damp * float(diagonal.mean()) * rung
        work = Lower.of(gram, order.flip(0), diagonal + damping)
        if not work.factor():
            continue
        work.invert()
        if work.is_sound():
            notes = () if rung == 1.0 else (f"Gram matrix not positive definite: damping x{rung:g}",)
            return InverseFactor(work.take_reversed(), damping, notes)
    return None
