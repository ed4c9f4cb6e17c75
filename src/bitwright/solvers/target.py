"""What a weight should be once its input is no longer what it was.

After earlier weights have been rounded, a linear reads x^ instead of x. The best it can do for its own output is not W
but the least squares solution for W x from x^:

    W* = W + W C (H + lambda I)^-1,      H = E[x^ x^'],  C = E[(x - x^) x^'].

A linear whose output is added to the stream may also make up for the drift r - r^ of the stream itself:

    W** = W* + K (H + lambda I)^-1,      K = E[(r - r^) x^'].

Where the weight has few rows, W C is summed as such and C never formed. Both corrections are estimated from few tokens,
so each is scaled by a strength that held-out tokens choose.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.calib import full_products
from bitwright.numerics.linalg import is_finite
from bitwright.solvers.prepared import Prepared


@dataclass(frozen=True, slots=True)
class Strength:
    """How much of the input correction and of the stream correction to apply; 0 is none, 1 is least squares."""

    inputs: float = 0.0
    stream: float = 0.0

    def __str__(self) -> str:
        return f"target {self.inputs:g}" + (f", stream {self.stream:g}" if self.stream else "")


@dataclass(frozen=True, slots=True)
class Corrections:
    """The full corrections of one weight [out, in] (float32), to be scaled; None where there is nothing to correct."""

    inputs: Float[Tensor, "out in"] | None = None
    stream: Float[Tensor, "out in"] | None = None

    def rows(self, rows: slice) -> Corrections:
        """Those of these rows."""
        inputs = None if self.inputs is None else self.inputs[rows]
        return Corrections(inputs, None if self.stream is None else self.stream[rows])

    def apply(self, weight: Float[Tensor, "out in"], strength: Strength) -> Float[Tensor, "out in"]:
        """The target at this strength."""
        target = weight
        if self.inputs is not None and strength.inputs:
            target = torch.add(target, self.inputs, alpha=strength.inputs)
        if self.stream is not None and strength.stream:
            target = torch.add(target, self.stream, alpha=strength.stream)
        return target


def drift_solution(prepared: Prepared | None, cross: Float[Tensor, "m n"]) -> Float[Tensor, "m n"] | None:
    """cross @ (H + lambda I)^-1, float32, written over `cross`; None where H could not be factored.

    Source: closed form of GPTAQ's and Qronos' objectives (see LoaQ, arXiv 2509.06297). Differs: with the factor that
    error feedback has already, H^-1 = U'U in its own order of the columns.
    """
    if prepared is None:
        return None
    order, upper = prepared.permutation, prepared.factor.upper
    with full_products():
        for rows in cross.split(max(1, (6 << 20) // len(order))):
            rows[:, order] = upper.after(upper.transposed_after(rows[:, order]))
    return cross if is_finite(cross) else None


def input_correction(
    weight: Float[Tensor, "out in"], solved: Float[Tensor, "in in"] | None
) -> Float[Tensor, "out in"] | None:
    """W C (H + lambda I)^-1 from the solution for C alone, which all weights of one input share."""
    if solved is None:
        return None
    with full_products():
        return weight @ solved
