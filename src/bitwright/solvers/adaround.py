"""AdaRound: the rounding of one layer, learned so that what follows the layer (its ReLU, its point) comes out best.

`SoftRounding` are the variables that BRECQ and QDrop share: one share per weight, and a penalty that decides them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from bitwright.solvers.learning import Loop, Rate, Schedule, Variables
from bitwright.solvers.points import Points
from bitwright.solvers.reconstruction import BlockSolver, Choice, Piece, Reconstructed, Reconstruction
from bitwright.solvers.rounding import Rounding, penalty, unsettled


@final
@dataclass(frozen=True, slots=True)
class AdaRound(BlockSolver):
    """Learned rounding, layer by layer, activations quantized as they will be.

    `rate`: Adam's, of the logits. `pull`: the penalty of an undecided weight, in units of the starting error spread
    evenly over all weights.
    Source: Nagel 2020, eq. 21-25. Differs: the error is measured in units of the starting codes' error, so that `pull`
    means the same for every layer; a faster schedule; checks on held-out samples.
    """

    schedule: Schedule = field(default_factory=Schedule)
    rate: float = 0.1
    pull: float = 10.0

    @property
    def piece(self) -> Piece:
        return Piece.LAYER

    def reconstruct(self, problem: Reconstruction) -> Reconstructed:
        return Loop(self.schedule).run(
            problem, SoftRounding(problem, self.rate, self.pull), Points(problem.points, 0.0)
        )


@final
class SoftRounding(Variables):
    """The shares of all weights of a piece."""

    def __init__(self, problem: Reconstruction, rate: float, pull: float) -> None:
        self.problem, self.rate = problem, rate
        self.roundings: Mapping[str, Rounding] = {name: Rounding(weight) for name, weight in problem.weights.items()}
        self.pull = pull / max(1, sum(rounding.logits.numel() for rounding in self.roundings.values()))

    def rates(self) -> list[Rate]:
        return [Rate(tuple(rounding.logits for rounding in self.roundings.values()), self.rate)]

    def draw(self, beta: float | None) -> tuple[dict[str, Tensor], Tensor | None]:
        shares = {name: rounding.share() for name, rounding in self.roundings.items()}
        weights = {name: rounding.soft(shares[name]) for name, rounding in self.roundings.items()}
        weights |= self.problem.biases
        if beta is None:
            return weights, None
        total: Tensor | None = None
        for share in shares.values():
            total = penalty(share, beta) if total is None else total + penalty(share, beta)
        return weights, None if total is None else total * self.pull

    def choice(self) -> Choice:
        chosen = {name: rounding.hard() for name, rounding in self.roundings.items()}
        return Choice(chosen, self.problem.biases, self.problem.points)

    @property
    def is_settled(self) -> bool:
        undecided = sum(unsettled(rounding.share().detach()) for rounding in self.roundings.values())
        return undecided * 1000 <= sum(rounding.logits.numel() for rounding in self.roundings.values())
