"""A solver chooses the codes of one weight; what it answers is a `Solution`.

It is given the target matrix, the spec, and the second moments of the inputs, and knows nothing of models. Failure is
data: a solver that cannot do its work as asked does the next best thing and says so in the notes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.calib import full_products
from bitwright.numerics import QTensor, Spec, row_ranges, stack_rows

_ROWS = 2048  # whose losses are summed at a time
_STRIP = 512  # columns of the Gram matrix multiplied with at a time


@dataclass(frozen=True, slots=True)
class Solution:
    """A quantized weight, its loss tr(E H E') against the target (float64 sum), and the fallbacks that were taken."""

    qtensor: QTensor
    loss: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """One rounding problem: target [out, in] float32, its spec, and the mean of x x' over the calibration tokens.

    `gram` None means that nothing is known of the inputs (all count alike and are uncorrelated).
    """

    target: Float[Tensor, "out in"]
    spec: Spec
    gram: Float[Tensor, "in in"] | None = None

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Ranges of rows that may be solved apart."""
        return row_ranges(self.spec, (self.target.shape[0], self.target.shape[1]))

    def rows(self, start: int, stop: int) -> Problem:
        """The problem of these rows alone."""
        return replace(self, target=self.target[start:stop])


class Solver(ABC):
    """A way to choose codes."""

    __slots__ = ()

    @property
    @abstractmethod
    def needs_gram(self) -> bool:
        """Whether it is any use without calibration data."""

    @abstractmethod
    def solve(self, problem: Problem) -> Solution:
        """The quantized weight."""


def output_loss(error: Float[Tensor, "out in"], gram: Float[Tensor, "in in"] | None) -> float:
    """tr(E H E'): the squared output error per token; the squared weight error where nothing is known of the inputs."""
    if gram is None:
        return sum(float(rows.double().square().sum()) for rows in error.split(_ROWS))
    with full_products():
        return sum(_quadratic(rows, gram.float()) for rows in error.split(_ROWS))


def _quadratic(rows: Float[Tensor, "out in"], gram: Float[Tensor, "in in"]) -> float:
    """tr(E H E') from the upper half of H alone: what lies off the diagonal counts twice."""
    total = 0.0
    for start in range(0, len(gram), _STRIP):
        stop = start + _STRIP
        strip = rows[:, start:stop]
        reach = (rows[:, :start] @ gram[:start, start:stop]).mul_(2)
        reach.addmm_(strip, gram[start:stop, start:stop])
        total += float(reach.mul_(strip).sum(dtype=torch.float64))
    return total


def rounding_loss(
    qtensor: QTensor, target: Float[Tensor, "out in"], gram: Float[Tensor, "in in"] | None = None
) -> float:
    """`output_loss` of the rounding error, a few rows at a time."""
    ranges = row_ranges(qtensor.spec, qtensor.shape)
    return sum(output_loss(qtensor.rows(a, b).dequantize() - target[a:b], gram) for a, b in ranges)


def in_rows(problem: Problem, solve: Callable[[Problem], QTensor]) -> QTensor:
    """Solve some rows after the other, so that what a solver holds besides the result is bounded."""
    return stack_rows([solve(problem.rows(start, stop)) for start, stop in problem.ranges])
