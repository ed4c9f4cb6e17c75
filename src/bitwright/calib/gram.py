"""Second moments of what a linear reads: the only statistics that error feedback needs.

`Gram` is X'X summed over tokens, `Cross` is D'X for another quantity D of the same tokens (the drift of the input, or
of the stream that the output is added to). Both are monoids: sums that may be made in parts and merged. Sums are kept
in float32; inputs that are bfloat16 are multiplied on bfloat16 matrix units where the machine has them, which loses
nothing, since such products are exact and are summed in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


@contextmanager
def short_products(exact: bool) -> Iterator[None]:
    """Within it, float32 products may be formed from operands rounded to bfloat16 (`exact`: they lose nothing)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if exact else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@final
class Cross:
    """The sum of left' right over tokens, and the number of tokens. Cost: 2 tokens x m x n operations per `add`."""

    __slots__ = ("tokens", "total")

    def __init__(self, rows: int, cols: int) -> None:
        self.total = torch.zeros(rows, cols)
        self.tokens = 0

    def add(self, left: Float[Tensor, "tokens m"], right: Float[Tensor, "tokens n"]) -> None:
        """Count these tokens in; anything not finite is an error of the model's, named by the caller."""
        short = right.dtype == torch.bfloat16
        with short_products(short):
            self.total.addmm_(left.float().mT, right.float())
        self.tokens += len(right)

    def merge(self, other: Cross) -> None:
        """Count in what another sum has seen."""
        self.total += other.total
        self.tokens += other.tokens

    def mean(self) -> Float[Tensor, "m n"]:
        """The mean over tokens; zeros if there were none."""
        return self.total / max(1, self.tokens)


def gram(inputs: Float[Tensor, "tokens n"]) -> Float[Tensor, "n n"]:
    """The mean of x x' over these tokens, float32 (for a single batch)."""
    one = Cross(inputs.shape[1], inputs.shape[1])
    one.add(inputs, inputs)
    return one.mean()
