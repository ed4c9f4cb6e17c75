"""Second moments of what a linear reads: the only statistics that error feedback needs.

`Gram` is X'X summed over tokens, `Cross` is D'X for another quantity D of the same tokens (the drift of the input, or
of the stream that the output is added to). Both are monoids: sums that may be made in parts and merged. Sums are kept
in float32. For models stored in bfloat16 the products may be formed on bfloat16 matrix units: both factors are rounded
alike, so the Gram matrix stays positive semidefinite and is off by some 1e-6 of its diagonal, far below the damping.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


@contextmanager
def short_products(allowed: bool) -> Iterator[None]:
    """Within it, float32 products are formed from operands rounded to bfloat16 where the machine has units for that.

    Sums stay in float32. `allowed` False: products are formed in full.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@final
class Cross:
    """The sum of left' right over tokens, and the number of tokens. Cost: 2 tokens x m x n operations per `add`.

    `short`: products may be formed from operands rounded to bfloat16; those of bfloat16 tensors always are.
    """

    __slots__ = ("_short", "tokens", "total")

    def __init__(self, rows: int, cols: int, short: bool = False) -> None:
        self.total = torch.zeros(rows, cols)
        self.tokens = 0
        self._short = short

    def add(self, left: Float[Tensor, "tokens m"], right: Float[Tensor, "tokens n"]) -> None:
        """Count these tokens in; anything not finite is an error of the model's, named by the caller."""
        with short_products(self._short or left.dtype == right.dtype == torch.bfloat16):
            self.total.addmm_(left.float().mT, right.float())
        self.tokens += len(right)

    def merge(self, other: Cross) -> None:
        """Count in what another sum has seen."""
        self.total += other.total
        self.tokens += other.tokens

    def mean(self) -> Float[Tensor, "m n"]:
        """The mean over tokens; zeros if there were none."""
        return self.total / max(1, self.tokens)

    def take_mean(self) -> Float[Tensor, "m n"]:
        """The mean in the place of the sum, which is lost: wide sums take too much memory to be held twice."""
        return self.total.div_(max(1, self.tokens))


def gram(inputs: Float[Tensor, "tokens n"]) -> Float[Tensor, "n n"]:
    """The mean of x x' over these tokens, float32 (for a single batch)."""
    one = Cross(inputs.shape[1], inputs.shape[1])
    one.add(inputs, inputs)
    return one.mean()
