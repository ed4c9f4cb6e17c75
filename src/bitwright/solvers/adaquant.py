"""AdaQuant: weights, their scales, biases and the steps of activations are all learned, straight through the rounding.

A weight may travel further than to the number next to it, and scales are not fixed beforehand. So it can do more than
learned rounding, and fits few samples too well more easily. Everything is learned in units of its own: weights in steps
of their scale, scales by a factor, biases relative to the piece's output.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from bitwright.numerics import Params, QTensor, quantize
from bitwright.solvers.biases import Biases
from bitwright.solvers.learning import Loop, Rate, Schedule, Variables
from bitwright.solvers.points import Points
from bitwright.solvers.reconstruction import BlockSolver, Choice, Piece, Reconstructed, Reconstruction, RoundedWeight
from bitwright.solvers.straight import straight_through


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
class Moving:
    """One weight: where it moves to, in steps, and the factors on its scales."""

    def __init__(self, weight: RoundedWeight) -> None:
        self.weight, self.spec, self.params = weight, weight.start.spec, weight.start.params
        self.matrix = _begin(weight)
        self.move = torch.zeros_like(self.matrix, requires_grad=True)
        tiles = () if self.params is None else self.params.scale.shape
        self.factor = torch.zeros(tiles, requires_grad=True)

    def draw(self) -> Tensor:
        """The quantized weight as it is now, differentiable in the move and in the factors."""
        shape = (self.matrix.shape[0], self.matrix.shape[1])
        if self.params is None or self.spec.tile is None:
            return self.weight.shaped(straight_through(self.moved(), torch.ones(()), None, self.spec.format))
        scale = self.spec.tile.spread(self.params.scale * self.factor.exp(), shape)
        zero = None if self.params.zero is None else self.spec.tile.spread(self.params.zero, shape)
        return self.weight.shaped(straight_through(self.moved(), scale, zero, self.spec.format))

    def moved(self) -> Tensor:
        """The weight before rounding."""
        if self.params is None or self.spec.tile is None:
            return self.matrix + self.move
        unit = self.spec.tile.spread(self.params.scale, (self.matrix.shape[0], self.matrix.shape[1]))
        return self.matrix + self.move * unit

    def stored(self) -> QTensor:
        """The nearest codes under the scales as they are stored."""
        params = self.params
        if params is not None:
            params = Params(params.scale * self.factor.detach().exp(), params.zero)
        return quantize(self.moved().detach(), self.spec, params)


@final
class _Free(Variables):
    """Everything that AdaQuant moves in one piece."""

    def __init__(self, solver: AdaQuant, problem: Reconstruction) -> None:
        self.solver, self.problem = solver, problem
        self.weights = {name: Moving(weight) for name, weight in problem.weights.items()}
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


def _begin(weight: RoundedWeight) -> Tensor:
    """The original numbers, where they round to the starting codes; else the number that the code stands for."""
    matrix, start = weight.matrix(), weight.start.dequantize()
    return torch.where(quantize(matrix, weight.start.spec, weight.start.params).dequantize() == start, matrix, start)
