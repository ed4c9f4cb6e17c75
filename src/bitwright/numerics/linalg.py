"""The one factorisation that error feedback needs, and what to do when it fails.

A Gram matrix H = X'X / T of layer inputs is rarely well conditioned: few rows, dead columns, one direction that
outweighs all others. `inverse_factor` damps it, factors it in float64 and returns the upper factor U of its inverse,
H^-1 = U'U. When the factorisation fails it damps harder, says so, and at last gives up: the caller then rounds to
nearest, which needs no Gram matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_LADDER = (1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True, slots=True)
class InverseFactor:
    """U upper triangular with (H + damping I)^-1 = U'U, float64 [n, n]; `damping` absolute; `notes` name fallbacks."""

    upper: Float[Tensor, "n n"]
    damping: float
    notes: tuple[str, ...] = ()


def dead_columns(gram: Float[Tensor, "n n"]) -> Bool[Tensor, "n"]:
    """Inputs that were zero in every calibration token."""
    return gram.diagonal() <= 0


def revive(gram: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The Gram matrix in float64 with the mean diagonal where a column is dead, so that it can be factored."""
    gram = gram.double()
    dead = dead_columns(gram)
    if not bool(dead.any()):
        return gram
    alive = gram.diagonal()[~dead]
    gram = gram.clone()
    gram.diagonal()[dead] = alive.mean() if alive.numel() else 1.0
    return gram


def inverse_factor(gram: Float[Tensor, "n n"], damp: float) -> InverseFactor | None:
    """The factor of the inverse of gram + damp * mean(diagonal) * I; None where no damping on the ladder helps.

    Source: GPTQ (Frantar 2022), step 3. Differs: H = R R' is factored from its last row upwards and R inverted, so
    that the inverse of H is never formed; float64; the damping climbs a ladder, each rung named in the notes.
    """
    if not bool(torch.isfinite(gram).all()):
        return None
    base = damp * float(gram.diagonal().mean())
    for rung in _LADDER:
        damping = base * rung
        reversed_gram = gram.double().flip(0, 1)
        reversed_gram.diagonal().add_(damping)
        lower, status = torch.linalg.cholesky_ex(reversed_gram)
        del reversed_gram
        if int(status) == 0 and bool(torch.isfinite(lower).all()):
            eye = torch.eye(len(gram), dtype=torch.float64)
            upper = torch.linalg.solve_triangular(lower.flip(0, 1), eye, upper=True)
            notes = () if rung == 1.0 else (f"Gram matrix not positive definite: damping x{rung:g}",)
            return InverseFactor(upper, damping, notes)
    return None


def damped_solve(gram: Float[Tensor, "n n"], damping: float, right: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """right @ (gram + damping I)^-1 in float64."""
    damped = gram.double().clone()
    damped.diagonal().add_(damping)
    return torch.cholesky_solve(right.double().mT, torch.linalg.cholesky(damped)).mT
