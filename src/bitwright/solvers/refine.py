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

_BLOCK = 32  # columns visited between two products with the Gram matrix; small, so that they stay in cache


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
    gram, spec, params = problem.gram, qtensor.spec, qtensor.params
    error = (qtensor.dequantize() - problem.target).mT.contiguous()  # columns as rows
    place = spec.format.decode(qtensor.codes).mT.contiguous()  # in units of the format
    shape = qtensor.shape
    scale = torch.ones_like(place)
    if params is not None:
        assert spec.tile is not None
        scale = spec.tile.spread(params.scale, shape).mT.contiguous()
    pull = 1 / (scale * problem.diagonal[:, None])
    for _ in range(sweeps):
        changed = 0
        for start in range(0, shape[1], _BLOCK):
            stop = min(start + _BLOCK, shape[1])
            slope = problem.times(slice(start, stop), error)
            change = place[start:stop].clone()
            for k in range(start, stop):
                best = spec.format.nearest(torch.addcmul(place[k], slope[k - start], pull[k], value=-1))
                step = torch.sub(best, place[k], out=change[k - start]).mul_(scale[k])
                place[k] = best
                slope[k - start + 1 :].addcmul_(gram[k, k + 1 : stop, None], step)
            error[start:stop] += change
            changed += int(change.count_nonzero())
        if changed < 1e-4 * place.numel():
            break
    codes = spec.format.encode(place.mT.contiguous())
    return QTensor(codes, spec) if params is None else assemble(codes, spec, params)


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
    normal = torch.empty(qtensor.shape[0], groups, groups)
    for a in range(groups):
        part = slice(a * width, (a + 1) * width)
        reach = levels[:, part] @ problem.gram[part]
        reach[:, part].add_(levels[:, part], alpha=problem.damping)
        reach.mul_(levels)
        normal[:, a] = reach.reshape(-1, groups, width).sum(-1)
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


def _row_losses(scale: Tensor, normal: Tensor, right: Tensor) -> Tensor:
    """The loss of every row up to a constant, float64."""
    s = scale.double()
    return (s * (normal.double() @ s[..., None]).squeeze(-1)).sum(-1) - 2 * (s * right.double()).sum(-1)
