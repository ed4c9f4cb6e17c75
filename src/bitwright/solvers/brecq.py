"""BRECQ: the roundings of a whole block are learned together, against the block's output.

What one layer rounds away another one of the block may make up for, and activations between them are quantized while
that is learned. Fisher information, where given, weighs each element of the output by how much the task's loss minds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from bitwright.solvers.adaround import SoftRounding
from bitwright.solvers.learning import Loop, Schedule
from bitwright.solvers.points import Points
from bitwright.solvers.reconstruction import BlockSolver, Piece, Reconstructed, Reconstruction, Weighting


@final
@dataclass(frozen=True, slots=True)
class Brecq(BlockSolver):
    """Block reconstruction. `rate`: Adam's, of the logits; `point_rate`: of the logarithms of the activations' steps;
    `bias_rate`: of biases, in root mean squares of the wanted output. The last two may be 0, which leaves things be.

    Source: Li 2021, section 3 and algorithm 1. Differs: the steps of the activations are learned with the rounding and
    not after it; the rounding variable is that of `AdaRound`.
    """

    schedule: Schedule = field(default_factory=Schedule)
    weighting: Weighting = Weighting.PLAIN
    rate: float = 0.05
    point_rate: float = 0.003
    bias_rate: float = 0.001

    def __post_init__(self) -> None:
        if self.rate <= 0 or min(self.point_rate, self.bias_rate) < 0:
            raise ValueError(f"rate is positive, point_rate and bias_rate are not negative; found {self}")

    @property
    def piece(self) -> Piece:
        return Piece.BLOCK

    def drawn(self, numbers: int) -> int:
        """As the schedule says."""
        return self.schedule.drawn(numbers)

    def reconstruct(self, problem: Reconstruction) -> Reconstructed:
        loop = Loop(self.schedule, self.weighting)
        variables = SoftRounding(problem, self.rate, self.bias_rate)
        return loop.run(problem, variables, Points(problem.points, self.point_rate))
