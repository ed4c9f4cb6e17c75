"""Improves codes and scales that were chosen before, against the same loss; neither step can raise it.

Coordinate descent visits every column again: with E = Q - T the error and G = E H, the loss as a function of one
column is a parabola with its lowest point at q_k - G_k / H_kk; the nearest code to that is taken. The refit solves, for
every row, the least squares problem of all its group scales at once with the codes held fixed, and keeps a row's new
scales only where the loss, with the scales as stored, falls. Lower loss is not always a better model: whoever calls
this compares block outputs on held-out rows.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.calib import full_products
from bitwright.numerics import Params, QTensor, assemble, stack_rows, store_params
from bitwright.solvers.solver import Problem

_BLOCK = 32  # columns visited between two products of their changes; small, so that they stay in cache
_ROWS = 512  # whose scales are refitted at a time, for the same reason
_SPAN = 256  # columns whose slopes are found at a time, from all errors


def refine(qtensor: QTensor, problem: Problem, damping: float, sweeps: int, refits: int) -> QTensor:
    """`sweeps` descents; or, `refits` times, a refit of the scales and then the descents."""
    parts = []
    with full_products():
        for start, stop in problem.ranges:
            damped = Damped(problem.rows(start, stop), damping)
            part = descend(qtensor.rows(start, stop), damped, sweeps)
            for _ in range(refits):
                part = descend(refit(part, damped), damped, sweeps)
            parts.append(part)
    return stack_rows(parts)


class Damped:
    """A problem whose Gram matrix is H + damping I, without a second matrix being held for it."""

    def __init__(self, problem: Problem, damping: float = 0.0) -> None:
        assert problem.gram is not None
        self.target, self.damping = problem.target, damping
        self.gram = problem.gram.float()
        self.diagonal = self.gram.diagonal() + damping

    def times(self, rows: slice, right: Float[Tensor, "in out"]) -> Float[Tensor, "rows out"]:
        """These rows of (H + damping I) right."""
        return (self.gram[rows] @ right).add_(right[rows], alpha=self.damping)


def descend(qtensor: QTensor, problem: Damped, sweeps: int) -> QTensor:
    """Coordinate descent over the columns. Source: QuIP# (Tseng 2024), section 4.3; cost 2 out in^2 per sweep."""
    spec, params = qtensor.spec, qtensor.params
    descent = _Descent(qtensor, problem)
    for _ in range(sweeps):
        if descent.sweep() < 1e-4 * qtensor.codes.numel():
            break
    codes = spec.format.encode(descent.place.mT.contiguous())
    return QTensor(codes, spec) if params is None else assemble(codes, spec, params)


class _Descent:
    """Where every weight is, in units of the format, and the error that this leaves; columns are held as rows."""

    def __init__(self, qtensor: QTensor, problem: Damped) -> None:
        spec, params = qtensor.spec, qtensor.params
        self.format, self.problem = spec.format, problem
        self.error = (qtensor.dequantize() - problem.target).mT.contiguous()
        self.place = spec.format.decode(qtensor.codes).mT.contiguous()
        self.scale = torch.ones_like(self.place)
        if params is not None:
            assert spec.tile is not None
            self.scale = spec.tile.spread(params.scale, qtensor.shape).mT.contiguous()
        self.pull = 1 / (self.scale * problem.diagonal[:, None])

    def sweep(self) -> int:
        """Visit every column; how many weights changed."""
        changed, size = 0, len(self.place)
        for start in range(0, size, _SPAN):
            stop = min(start + _SPAN, size)
            slope = self.problem.times(slice(start, stop), self.error)
            change = torch.empty_like(slope)
            for first in range(start, stop, _BLOCK):
                last, done = min(first + _BLOCK, stop), first - start
                self._visit(first, last, slope[done:], change[done:])
                later = self.problem.gram[first:last, last:stop].mT
                slope[last - start :].addmm_(later, change[done : last - start])
            self.error[start:stop] += change
            changed += int(change.count_nonzero())
        return changed

    def _visit(self, first: int, last: int, slope: Tensor, change: Tensor) -> None:
        """Move these columns one after the other; `slope` and `change` begin with the first."""
        gram = self.problem.gram
        for i, k in enumerate(range(first, last)):
            wanted = torch.addcmul(self.place[k], slope[i], self.pull[k], value=-1)
            best = self.format.nearest(wanted)
            torch.sub(best, self.place[k], out=change[i]).mul_(self.scale[k])
            self.place[k] = best
            slope[i + 1 : last - first].addcmul_(gram[k, k + 1 : last, None], change[i])


def refit(qtensor: QTensor, problem: Damped) -> QTensor:
    """The same codes with the scales of every row solved for jointly; rows where that does not help keep theirs.

    Only for tiles of one row whose scales are plain floats; other tensors are returned as they are.
    """
    spec, params = qtensor.spec, qtensor.params
    if params is None or spec.tile is None or spec.tile.rows != 1 or spec.scale is None or spec.scale.tile is not None:
        return qtensor
    levels = spec.format.decode(qtensor.codes)
    if params.zero is not None:
        levels = levels - spec.tile.spread(params.zero, qtensor.shape)
    groups = params.scale.shape[1]
    width = qtensor.shape[1] // groups
    normal = torch.cat([_normal(rows, groups, problem) for rows in levels.split(_ROWS)])
    target = problem.target
    right = ((target @ problem.gram).add_(target, alpha=problem.damping) * levels).reshape(-1, groups, width).sum(-1)
    ridge = 1e-6 * normal.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
    damped = normal.double() + torch.eye(groups, dtype=torch.float64) * ridge[:, None, None]
    wanted = torch.linalg.solve(damped, (right + ridge[:, None] * params.scale).double()).float()
    usable = torch.isfinite(wanted) & (wanted * params.scale > 0)
    trial = store_params(spec, Params(torch.where(usable, wanted, params.scale), params.zero))
    before = _row_losses(params.scale, normal, right)
    better = (_row_losses(trial.scale, normal, right) < before)[:, None]
    return assemble(qtensor.codes, spec, Params(torch.where(better, trial.scale, params.scale), params.zero))


def _normal(levels: Float[Tensor, "out in"], groups: int, problem: Damped) -> Float[Tensor, "out groups groups"]:
    """Entry a, b of a row: the products of its levels in group a with those in group b, weighed by the Gram matrix."""
    size, width = levels.shape[1], levels.shape[1] // groups
    normal = torch.empty(len(levels), groups, groups)
    for a in range(groups):
        start, stop = a * width, (a + 1) * width
        reach = levels[:, start:stop] @ problem.gram[start:stop, start:]
        reach[:, :width].add_(levels[:, start:stop], alpha=problem.damping)
        row = reach.mul_(levels[:, start:]).reshape(-1, (size - start) // width, width).sum(-1)
        normal[:, a, a:], normal[:, a:, a] = row, row
    return normal


def _row_losses(scale: Tensor, normal: Tensor, right: Tensor) -> Tensor:
    """The loss of every row up to a constant, float64."""
    s = scale.double()
    return (s * (normal.double() @ s[..., None]).squeeze(-1)).sum(-1) - 2 * (s * right.double()).sum(-1)
