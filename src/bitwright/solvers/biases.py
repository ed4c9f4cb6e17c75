"""Biases that are learned with the roundings: what rounding does to the mean of an output, a bias can take back."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from bitwright.solvers.learning import Rate
from bitwright.solvers.reconstruction import Reconstruction


@final
class Biases:
    """All biases of a piece, moved in root mean squares of the wanted output; rate 0: they stay as they are."""

    def __init__(self, problem: Reconstruction, rate: float) -> None:
        self.start, self._rate = problem.biases, rate
        self.moves = {name: torch.zeros_like(bias, requires_grad=rate > 0) for name, bias in problem.biases.items()}
        self.unit = float(problem.samples.wanted.float().square().mean().sqrt())

    def rate(self) -> Rate:
        """The moves, to be learned at a rate that falls."""
        return Rate(tuple(self.moves.values()) if self._rate > 0 else (), self._rate, falls=True)

    def draw(self) -> dict[str, Tensor]:
        """The biases as they are now, differentiable in the moves."""
        return {name: self.start[name] + self.unit * move for name, move in self.moves.items()}

    def stored(self) -> dict[str, Tensor]:
        """The biases as they would be stored."""
        return {name: bias.detach() for name, bias in self.draw().items()}
