"""Rounds every weight to the nearest code. Needs no data; every other method has to be better than this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from bitwright.numerics import Fitter, MinMax, QTensor, quantize
from bitwright.solvers.solver import Problem, Solution, Solver, in_rows, rounding_loss


@final
@dataclass(frozen=True, slots=True)
class Nearest(Solver):
    """Round to nearest on the grid that `fitter` picks."""

    fitter: Fitter = field(default_factory=MinMax)

    @property
    def needs_gram(self) -> bool:
        return False

    def solve(self, problem: Problem) -> Solution:
        qtensor = in_rows(problem, self._round)
        return Solution(qtensor, rounding_loss(qtensor, problem.target, problem.gram))

    def _round(self, problem: Problem) -> QTensor:
        spec = problem.spec
        params = None if spec.tile is None else self.fitter.fit(spec, problem.target)
        return quantize(problem.target, spec, params)
