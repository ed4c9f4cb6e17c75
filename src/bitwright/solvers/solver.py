"""A solver chooses the codes of one weight; what it answers is a `Solution`.

It is given the target matrix, the spec, and the second moments of the inputs, and knows nothing of models. Failure is
data: a solver that cannot do its work as asked does the next best thing and says so in the notes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.numerics import QTensor, Spec


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
        return float(error.double().square().sum())
    return float(((error @ gram.float()) * error).sum(dtype=torch.float64))
