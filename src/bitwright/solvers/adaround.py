"""AdaRound: the rounding of one layer, learned so that what follows the layer (its ReLU, its point) comes out best.

`SoftRounding` are the variables that BRECQ and QDrop share: one share per weight, decided step by step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from bitwright.solvers.biases import Biases
from bitwright.solvers.learning import Loop, Rate, Schedule, Variables
from bitwright.solvers.points import Points
from bitwright.solvers.reconstruction import BlockSolver, Choice, Piece, Reconstructed, Reconstruction
from bitwright.solvers.rounding import Rounding, unsettled


@final
@dataclass(frozen=True, slots=True)
class AdaRound(BlockSolver):
    """Learned rounding, layer by layer, activations quantized as they will be. `rate`: Adam's, of the logits.

    `bias_rate`: of biases, in root mean squares of the wanted output; 0 leaves them as they are.

    Source: Nagel 2020, eq. 21-23. Differs: the penalty of eq. 24, whose weight has to suit the layer, is replaced by a
    sigmoid that sharpens; that takes a tenth of the steps for the same error, and hardly depends on its settings.
    """

    schedule: Schedule = field(default_factory=Schedule)
    rate: float = 0.05
    bias_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.bias_rate < 0:
            raise ValueError(f"rate is positive and bias_rate not negative; found {self}")

    @property
    def piece(self) -> Piece:
        return Piece.LAYER

    def drawn(self, numbers: int) -> int:
        """As the schedule says."""
        return self.schedule.drawn(numbers)

    def reconstruct(self, problem: Reconstruction) -> Reconstructed:
        variables = SoftRounding(problem, self.rate, self.bias_rate)
        return Loop(self.schedule).run(problem, variables, Points(problem.points, 0.0))


@final
class SoftRounding(Variables):
    """The shares of all weights of a piece, and its biases."""

    def __init__(self, problem: Reconstruction, rate: float, bias_rate: float) -> None:
        self.problem, self.rate, self.biases = problem, rate, Biases(problem, bias_rate)
        self.roundings: Mapping[str, Rounding] = {name: Rounding(weight) for name, weight in problem.weights.items()}

    def rates(self) -> list[Rate]:
        logits = tuple(rounding.logits for rounding in self.roundings.values())
        return [Rate(logits, self.rate), self.biases.rate()]

    def draw(self, sharp: float) -> dict[str, Tensor]:
        weights = {name: rounding.soft(rounding.share(sharp)) for name, rounding in self.roundings.items()}
        return weights | self.biases.draw()

    def choice(self) -> Choice:
        chosen = {name: rounding.hard() for name, rounding in self.roundings.items()}
        return Choice(chosen, self.biases.stored(), self.problem.points)

    def is_settled(self, sharp: float) -> bool:
        undecided = sum(unsettled(rounding.share(sharp).detach()) for rounding in self.roundings.values())
        return undecided * 1000 <= sum(rounding.logits.numel() for rounding in self.roundings.values())
