"""What error feedback and corrected targets need of an input: the order of its columns and the factor of the inverse.

It depends on the inputs alone, so all weights that read them share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bitwright.numerics.linalg import InverseFactor, dead_columns, inverse_factor, is_finite


class Order(Enum):
    """In which order the columns are rounded."""

    NATURAL = "natural"
    ACTIVATION = "activation"


@dataclass(frozen=True, slots=True)
class Prepared:
    """The order of the columns [n], and the factor of the inverse Gram matrix in that order."""

    permutation: Int64[Tensor, "n"]
    factor: InverseFactor


def prepare(gram: Float[Tensor, "n n"], damp: float, order: Order) -> Prepared | None:
    """Order and factor of this Gram matrix; None if it is of no use. `damp`: lambda over the mean diagonal."""
    if not is_finite(gram):
        return None
    permutation = torch.arange(len(gram))
    if order is Order.ACTIVATION:
        permutation = torch.argsort(gram.diagonal(), descending=True, stable=True)
    factor = inverse_factor(gram, damp, permutation)
    if factor is None:
        return None
    dead = int(dead_columns(gram).sum())
    notes = (f"{dead} of {len(gram)} inputs were zero throughout: rounded to nearest",) if dead else ()
    return Prepared(permutation, InverseFactor(factor.upper, factor.damping, factor.notes + notes))
