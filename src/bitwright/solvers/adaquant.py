"""AdaQuant: weights, their scales, biases and the steps of activations are all learned, straight through the rounding.

A weight may travel further than to the number next to it, and scales are not fixed beforehand. So it can do more than
learned rounding, and fits few samples too well more easily. Everything is learned in units of its own: weights in steps
of their scale, scales by a factor, biases relative to the piece's output.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from bitwright.solvers.biases import Biases
from bitwright.solvers.learning import Loop, Rate, Schedule, Variables
from bitwright.solvers.moving import Moving, as_it_was
from bitwright.solvers.points import Points
from bitwright.solvers.reconstruction import BlockSolver, Choice, Piece, Reconstructed, Reconstruction


@final
@dataclass(frozen=True, slots=True)
class AdaQuant(BlockSolver):
    """Learned weights, scales, biases and steps, layer by layer. All four rates are Adam's and fall to zero.

    `rate`: of weights, in steps; `scale_rate` and `point_rate`: of the logarithms of weight scales and of activation
    steps; `bias_rate`: of biases, in root mean squares of the wanted output. A rate of 0 leaves a thing as it is.
    Source: Hubara 2021, section 3. Differs: relative rates instead of absolute ones; a stored scale keeps its format.
    """

    schedule: Schedule = field(default_factory=Schedule)
    rate: float = 0.005
    scale_rate: float = 0.001
    bias_rate: float = 0.001
    point_rate: float = 0.003

    def __post_init__(self) -> None:
        if min(self.rate, self.scale_rate, self.bias_rate, self.point_rate) < 0:
            raise ValueError(f"learning rates are not negative; found {self}")

    @property
    def piece(self) -> Piece:
        return Piece.LAYER

    def drawn(self, numbers: int) -> int:
        """As the schedule says."""
        return self.schedule.drawn(numbers)

    def reconstruct(self, problem: Reconstruction) -> Reconstructed:
        return Loop(self.schedule).run(problem, _Free(self, problem), Points(problem.points, self.point_rate))


@final
class _Free(Variables):
    """Everything that AdaQuant moves in one piece."""

    def __init__(self, solver: AdaQuant, problem: Reconstruction) -> None:
        self.solver, self.problem = solver, problem
        self.weights = {name: Moving(weight, as_it_was(weight)) for name, weight in problem.weights.items()}
        self.biases = Biases(problem, solver.bias_rate)

    def rates(self) -> list[Rate]:
        solver, weights = self.solver, self.weights.values()
        return [
            Rate(tuple(weight.move for weight in weights), solver.rate, falls=True),
            Rate(
                tuple(weight.factor for weight in weights if weight.params is not None), solver.scale_rate, falls=True
            ),
            self.biases.rate(),
        ]

    def draw(self, sharp: float) -> dict[str, Tensor]:
        weights = {name: weight.draw() for name, weight in self.weights.items()}
        return weights | self.biases.draw()

    def choice(self) -> Choice:
        chosen = {name: weight.stored() for name, weight in self.weights.items()}
        return Choice(chosen, self.biases.stored(), self.problem.points)

    def is_settled(self, sharp: float) -> bool:
        return False
