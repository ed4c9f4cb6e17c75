"""Second moments of what a linear reads: the only statistics that error feedback needs.

`Gram` is X'X summed over tokens, `Cross` is D'X for another quantity D of the same tokens (the drift of the input, or
of the stream that the output is added to). Both are monoids: sums that may be made in parts and merged. Sums are kept
in float32. For models stored in bfloat16 the products may be formed on bfloat16 matrix units: both factors are rounded
alike, so the Gram matrix stays positive semidefinite and is off by some 1e-6 of its diagonal, far below the damping.
Only the upper half of a Gram matrix is summed; the lower one mirrors it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.numerics.short import has_short_units

_STRIP = 256  # rows of a Gram matrix summed at a time, from their diagonal to the right


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


@contextmanager
def full_products() -> Iterator[None]:
    """Within it, float32 products are formed in full, by the quicker of torch's two libraries.

    For large products of few shapes: oneDNN, which on some processors is twice as fast, makes a program for every shape
    that it meets, and keeps it.
    """
    with short_products(_medium_is_exact()):
        yield


@cache
def _medium_is_exact() -> bool:
    """Whether this machine forms products in full even where it may round their operands.

    Without matrix units for bfloat16 the setting only selects another library (oneDNN), which on processors that MKL
    does not favour is twice as fast. Rounded operands would be off by 1e-3 of the terms, full ones by 1e-6.
    """
    left = torch.linspace(1, 2, 512 * 512).reshape(512, 512)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        wrong = (left @ left.mT).double() - left.double() @ left.double().mT
    finally:
        torch.set_float32_matmul_precision(before)
    return float(wrong.abs().max()) < 1e-5 * 4 * 512


@final
class Cross:
    """The sum of left' right over tokens, and the number of tokens. Cost: 2 tokens x m x n operations per `add`.

    `short`: products may be formed from operands rounded to bfloat16; those of bfloat16 tensors always are. Where the
    machine has bfloat16 products but not of float32 tensors, what each `add` contributes is rounded as well: by 2^-9 of
    itself, independently each time, which is far below what so many tokens leave uncertain.
    """

    __slots__ = ("_short", "tokens", "total")

    def __init__(self, rows: int, cols: int, short: bool = False) -> None:
        self.total = torch.zeros(rows, cols)
        self.tokens = 0
        self._short = short

    def add(self, left: Float[Tensor, "tokens m"], right: Float[Tensor, "tokens n"]) -> None:
        """Count these tokens in; anything not finite is an error of the model's, named by the caller."""
        if bool(left.any()):  # before the first rounding nothing has drifted
            short = self._short or left.dtype == right.dtype == torch.bfloat16
            if short and has_short_units() and _medium_is_exact():
                self.total.add_(left.bfloat16().mT @ right.bfloat16())
            else:
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

    def take_mean(self) -> Float[Tensor, "m n"]:
        """The mean in the place of the sum, which is lost: wide sums take too much memory to be held twice."""
        return self.total.div_(max(1, self.tokens))


@final
class Gram:
    """The sum of x x' over tokens, and the number of tokens. Cost: tokens x n x n operations per `add`.

    `short` as for `Cross`.
    """

    __slots__ = ("_short", "_upper", "tokens")

    def __init__(self, size: int, short: bool = False) -> None:
        self._upper = torch.zeros(size, size)
        self.tokens = 0
        self._short = short

    def add(self, inputs: Float[Tensor, "tokens n"]) -> None:
        """Count these tokens in."""
        values = inputs.float()
        with short_products(self._short or inputs.dtype == torch.bfloat16):
            for start in range(0, len(self._upper), _STRIP):
                strip = values[:, start : start + _STRIP]
                self._upper[start : start + _STRIP, start:].addmm_(strip.mT, values[:, start:])
        self.tokens += len(inputs)

    def merge(self, other: Gram) -> None:
        """Count in what another sum has seen."""
        self._upper += other._upper
        self.tokens += other.tokens

    @property
    def total(self) -> Float[Tensor, "n n"]:
        """The sum, whose lower half is mirrored in place; not a copy."""
        for start in range(0, len(self._upper), _STRIP):
            stop = start + _STRIP
            corner = self._upper[start:stop, start:stop]
            corner.copy_(corner.triu() + corner.triu(1).mT)
            self._upper[stop:, start:stop] = self._upper[start:stop, stop:].mT
        return self._upper

    def mean(self) -> Float[Tensor, "n n"]:
        """The mean over tokens; zeros if there were none."""
        return self.total / max(1, self.tokens)

    def take_mean(self) -> Float[Tensor, "n n"]:
        """The mean in the place of the sum, which is lost."""
        return self.total.div_(max(1, self.tokens))


def gram(inputs: Float[Tensor, "tokens n"]) -> Float[Tensor, "n n"]:
    """The mean of x x' over these tokens, float32 (for a single batch)."""
    one = Gram(inputs.shape[1])
    one.add(inputs)
    return one.mean()
