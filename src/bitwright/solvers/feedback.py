"""Rounds column by column and lets the columns still to come make up for the error: GPTQ, which is LDLQ.

With H the mean of x x' and H^-1 = U'U (U upper triangular), rounding column j with error e costs (e / U_jj)**2 if all
later columns respond at their best, which is to move by -e U_j,k / U_jj. So the cost of a column is known in advance,
and the range of its group is searched with weights 1 / U_jj**2. Columns whose inputs are largest go first (`order`);
scales are all fixed before (`STATIC`), so that the order needs no index in the checkpoint. Columns go in blocks: inside
a block one at a time, then all later columns at once by a matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.calib import short_products
from bitwright.numerics import Fitter, MseGrid, Params, QTensor, Spec, assemble, store_params
from bitwright.solvers.nearest import Nearest
from bitwright.solvers.prepared import Order, Prepared, prepare
from bitwright.solvers.refine import refine
from bitwright.solvers.solver import Problem, Solution, Solver, in_rows, rounding_loss


class Groups(Enum):
    """When scales are fitted: all before the first column, or each group's when its first column is reached."""

    STATIC = "static"
    DYNAMIC = "dynamic"


class Importance(Enum):
    """What weighs a column's squared error when its range is searched."""

    INVERSE_FACTOR = "inverse_factor"
    GRAM_DIAGONAL = "gram_diagonal"
    NONE = "none"


@final
@dataclass(frozen=True, slots=True)
class Feedback(Solver):
    """Error feedback. `damp`: lambda over the mean diagonal. `sweeps`, `refits`: refinements, see `refine.py`.

    Source: GPTQ (Frantar 2022), algorithm 1; equal to LDLQ of QuIP (Chee 2023), section 3. Differs: ranges searched
    with weights 1 / U_jj**2, scales as stored before the codes are chosen, float64 factor, a ladder of dampings.
    """

    fitter: Fitter = field(default_factory=MseGrid)
    damp: float = 0.01
    order: Order = Order.ACTIVATION
    groups: Groups = Groups.STATIC
    importance: Importance = Importance.INVERSE_FACTOR
    sweeps: int = 0
    refits: int = 0
    block: int = 128

    def __post_init__(self) -> None:
        if self.groups is Groups.DYNAMIC and self.order is Order.ACTIVATION:
            raise ValueError("dynamic groups need the natural order: use groups = 'static' or order = 'natural'")
        if self.damp <= 0 or self.block < 1 or self.sweeps < 0 or self.refits < 0:
            raise ValueError(f"damp and block are positive, sweeps and refits not negative; found {self}")

    @property
    def needs_gram(self) -> bool:
        return True

    def solve(self, problem: Problem) -> Solution:
        if problem.gram is None:
            raise ValueError("error feedback needs calibration data; give a calibration text or use Nearest")
        qtensor, notes = self.round_prepared(problem, prepare(problem.gram, self.damp, self.order))
        known = problem.gram if bool(torch.isfinite(problem.gram).all()) else None
        return Solution(qtensor, rounding_loss(qtensor, problem.target, known), notes)

    def round_prepared(self, problem: Problem, prepared: Prepared | None) -> tuple[QTensor, tuple[str, ...]]:
        """What `solve` finds and its notes, with the factor at hand; the loss is left to whoever wants it."""
        assert problem.gram is not None
        if prepared is None:
            found = Nearest(self.fitter).solve(replace(problem, gram=None)).qtensor
            return found, ("Gram matrix not usable: rounded to nearest",)
        with short_products(allowed=False):
            qtensor = in_rows(problem, lambda rows: self._round(rows, prepared))
        if self.sweeps or self.refits:
            qtensor = refine(qtensor, problem, prepared.factor.damping, self.sweeps, self.refits)
        return qtensor, prepared.factor.notes

    def _round(self, problem: Problem, prepared: Prepared) -> QTensor:
        params = None
        if problem.spec.tile is not None and self.groups is Groups.STATIC:
            params = self.fitter.fit(problem.spec, problem.target, self._importance(problem, prepared))
        return _Run(self, problem, prepared).run(params)

    def _importance(self, problem: Problem, prepared: Prepared) -> Float[Tensor, "1 in"] | None:
        assert problem.gram is not None
        match self.importance:
            case Importance.NONE:
                return None
            case Importance.GRAM_DIAGONAL:
                return problem.gram.diagonal()[None]
            case Importance.INVERSE_FACTOR:
                weights = torch.empty(len(prepared.permutation))
                weights[prepared.permutation] = prepared.factor.upper.diagonal() ** -2
                return weights[None]


_INNER = 32  # columns rounded between two products; small, so that they stay in cache


class _Run:
    """One pass over the columns of one weight. Columns are held as rows, so that each is contiguous."""

    def __init__(self, solver: Feedback, problem: Problem, prepared: Prepared) -> None:
        self.spec, self.solver = problem.spec, solver
        self.order, self.upper = prepared.permutation, prepared.factor.upper
        self.work = problem.target.mT[self.order].contiguous()  # [in, out], changed as errors are fed forward
        self.shape = (problem.target.shape[0], problem.target.shape[1])
        self.scaled = torch.empty_like(self.work)

    def run(self, params: Params | None) -> QTensor:
        """Round every column; `params` None: fit each span of columns when it is reached (or no scales at all)."""
        cols = self.shape[1]
        dynamic = params is None and self.spec.tile is not None
        span = self.spec.span(cols) if dynamic else cols
        step = min(self.solver.block, span) if dynamic else self.solver.block
        found: list[Params] = []
        for first in range(0, cols, span):
            if dynamic:
                weight = self.work[first : first + span].mT
                found.append(self.solver.fitter.fit(self.spec, weight, self._weights(first, span)))
            now = _Columns(self.spec, found[-1] if dynamic else params, self.shape)
            for start in range(first, min(first + span, cols), step):
                self._block(start, min(start + step, first + span, cols), now, first if dynamic else 0)
        if dynamic:
            params = _join(found)
        codes = torch.empty(self.shape, dtype=self.spec.format.encode(torch.zeros(1)).dtype)
        codes[:, self.order] = self.spec.format.encode(self.scaled).mT
        if params is None:
            return QTensor(codes, self.spec)
        return assemble(codes, self.spec, store_params(self.spec, params))

    def _weights(self, first: int, span: int) -> Float[Tensor, "1 span"] | None:
        if self.solver.importance is Importance.NONE:
            return None
        return (self.upper.diagonal()[first : first + span] ** -2)[None]

    def _block(self, start: int, stop: int, params: _Columns, offset: int) -> None:
        """Round these columns, then let all later ones make up for their errors in one product."""
        errors = torch.empty(stop - start, self.shape[0])
        for first in range(start, stop, _INNER):
            last = min(first + _INNER, stop)
            found = errors[first - start : last - start]
            self._columns(first, last, params, offset, found)
            if last < stop:
                later = self.upper.part(slice(first, last), slice(last, stop))
                self.work[last:stop].addmm_(later.mT, found, alpha=-1)
        if stop < self.shape[1]:
            later = self.upper.part(slice(start, stop), slice(stop, self.shape[1]))
            self.work[stop:].addmm_(later.mT, errors, alpha=-1)

    def _columns(self, start: int, stop: int, params: _Columns, offset: int, errors: Tensor) -> None:
        """One column after the other; `errors` takes what each leaves to the later ones."""
        corner = self.upper.part(slice(start, stop), slice(start, stop))
        for i, j in enumerate(range(start, stop)):
            column = self.work[j]
            scale, zero = params.of(int(self.order[j]) - offset)
            scaled = torch.div(column, scale, out=self.scaled[j]).add_(zero)
            value = self.spec.format.nearest(scaled).sub_(zero).mul_(scale)
            torch.sub(column, value, out=errors[i]).div_(corner[i, i])
            if j + 1 < stop:
                self.work[j + 1 : stop].addcmul_(corner[i, i + 1 :, None], errors[i], value=-1)


class _Columns:
    """Scale and zero of every row, column by column."""

    def __init__(self, spec: Spec, params: Params | None, shape: tuple[int, int]) -> None:
        self._width = 1
        self._scale = self._zero = None
        if params is not None:
            assert spec.tile is not None
            height, self._width = spec.tile.size(shape)
            self._scale = params.scale.mT.repeat_interleave(height, 1)
            self._zero = None if params.zero is None else params.zero.mT.repeat_interleave(height, 1)

    def of(self, column: int) -> tuple[Tensor, Tensor]:
        """Scale and zero [out] of this column; one and none where the spec has none."""
        if self._scale is None:
            return torch.ones(()), torch.zeros(())
        across = min(column // self._width, len(self._scale) - 1)
        return self._scale[across], torch.zeros(()) if self._zero is None else self._zero[across]


def _join(parts: list[Params]) -> Params:
    zeros = [part.zero for part in parts if part.zero is not None]
    return Params(torch.cat([part.scale for part in parts], 1), torch.cat(zeros, 1) if zeros else None)


def spec_allows(spec: Spec, groups: Groups) -> bool:
    """Whether groups can be fitted one after the other: not if a tile spans the whole row."""
    return groups is Groups.STATIC or (spec.tile is not None and spec.tile.cols is not None)
