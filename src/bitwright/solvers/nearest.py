"""Rounds every weight to the nearest code. Needs no data; every other method has to be better than this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from bitwright.numerics import Fitter, MinMax, quantize
from bitwright.solvers.solver import Problem, Solution, Solver, output_loss


@final
@dataclass(frozen=True, slots=True)
class Nearest(Solver):
    """Round to nearest on the grid that `fitter` picks."""

    fitter: Fitter = field(default_factory=MinMax)

    @property
    def needs_gram(self) -> bool:
        return False

    def solve(self, problem: Problem) -> Solution:
        spec = problem.spec
        params = None if spec.tile is None else self.fitter.fit(spec, problem.target)
        qtensor = quantize(problem.target, spec, params)
        return Solution(qtensor, output_loss(qtensor.dequantize() - problem.target, problem.gram))
