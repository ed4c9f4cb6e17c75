"""QDrop: block reconstruction in which some activation elements, drawn anew at every step, are left unquantized.

Rounding that only fits one pattern of activation errors is of little use on other inputs. With each element quantized
or not at random, inside the block and in what it reads, only roundings survive that do well under many patterns.
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
class QDrop(BlockSolver):
    """`drop`: the share of elements left unquantized at a step; with 0 it is `Brecq`. The rates are those of `Brecq`.

    An element of the input that is left unquantized is that of the original network. Nothing is dropped in the answer.
    Source: Wei 2022, algorithm 1. Differs: the rounding variable is that of `AdaRound`.
    """

    schedule: Schedule = field(default_factory=Schedule)
    weighting: Weighting = Weighting.PLAIN
    drop: float = 0.5
    rate: float = 0.05
    point_rate: float = 0.003
    bias_rate: float = 0.001

    def __post_init__(self) -> None:
        if not 0 <= self.drop <= 1 or self.rate <= 0 or min(self.point_rate, self.bias_rate) < 0:
            raise ValueError(
                f"drop is a share from 0 to 1, rate positive, point_rate and bias_rate are not negative; found {self}"
            )

    @property
    def piece(self) -> Piece:
        return Piece.BLOCK

    def drawn(self, numbers: int) -> int:
        """As the schedule says."""
        return self.schedule.drawn(numbers)

    def reconstruct(self, problem: Reconstruction) -> Reconstructed:
        loop = Loop(self.schedule, self.weighting, self.drop)
        variables = SoftRounding(problem, self.rate, self.bias_rate)
        return loop.run(problem, variables, Points(problem.points, self.point_rate))
