"""Rounds one linear operator of a network against the inputs that it will see, and takes back the shift of its mean.

The inputs have passed through codes and through all that was rounded before. Of them come second moments, one matrix
for each group of a convolution; half of the samples make them and half judge. What is compared is always the energy of
the output error on the judging half: the solver's codes against those of rounding to nearest, the bias with the shift
taken back against the bias as it was. So neither can make the operator worse where it was not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.engine.patches import mean_patch, output_axis, patches, rows_of
from bitwright.graph.network import Node
from bitwright.numerics import QTensor, Spec, may_cut_rows, stack_rows
from bitwright.recipe.network import WeightStep
from bitwright.solvers import Feedback, Nearest, Problem, Solver
from bitwright.store.quantized import StoredWeight

NO_COLUMNS = "its inputs cannot be had as columns"
NO_SAMPLES = "no samples were given"
A_TABLE = "rows are picked from it, not multiplied"


@final
@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """The mean of x x' and of x for each group."""

    gram: Float[Tensor, "groups in in"]
    mean: Float[Tensor, "groups in"]

    def energy(self, rows: Float[Tensor, "groups out in"]) -> float:
        """The mean square of what these rows make, summed over outputs."""
        return float(((rows @ self.gram) * rows).sum(dtype=torch.float64))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """A weight in codes, the offset for its bias (None: none helps), and the errors as noise over signal.

    `error`: of what is delivered, on judging samples; `nearest`: with codes rounded to nearest and no offset.
    """

    qtensor: QTensor
    offset: Float[Tensor, "out"] | None
    error: float
    nearest: float
    notes: tuple[str, ...]

    @staticmethod
    def decibels(error: float) -> float | None:
        """Signal over noise; None where there is no noise (or no signal)."""
        return -10 * math.log10(error) if 0 < error < math.inf else None


def moments_of(node: Node, shape: tuple[int, ...], inputs: Sequence[Tensor]) -> Moments:
    """Second moments and means over these batches."""
    gram, mean, columns, samples = None, None, 0, 0
    for values in inputs:
        found = patches(node, shape, values)
        step = found.mT @ found
        means = mean_patch(node, shape, values) * len(values)
        gram = step if gram is None else gram + step
        mean = means if mean is None else mean + means
        columns, samples = columns + found.shape[1], samples + len(values)
    assert gram is not None and mean is not None
    return Moments(gram / columns, mean / samples)


def halves(inputs: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The samples that make the moments and those that judge; a single sample has to do both."""
    if len(inputs) == 1 and len(inputs[0]) > 1:
        first, last = inputs[0].tensor_split(2)
        return [first], [last]
    middle = max(1, len(inputs) // 2)
    return inputs[:middle], inputs[middle:] or inputs


def round_layer(
    node: Node, weight: Tensor, spec: Spec, solver: Solver, inputs: tuple[Sequence[Tensor], Sequence[Tensor]]
) -> Rounded:
    """The weight of this node in codes; `inputs` are what it reads in the making and in the judging half."""
    shape, matrix = tuple(weight.shape), rows_of(node, weight)
    make, judge = (moments_of(node, shape, half) for half in inputs)
    groups = len(make.gram)
    split = matrix.reshape(groups, -1, matrix.shape[1])
    signal = judge.energy(split) or 1.0
    start = _nearest(matrix, spec, solver)
    solved, notes = _solved(split, spec, solver, make)

    def error_of(qtensor: QTensor) -> Tensor:
        return qtensor.dequantize().reshape(split.shape) - split

    before = judge.energy(error_of(start))
    taken, least = start, before
    if solved is not None and (found := judge.energy(error_of(solved))) < before:
        taken, least = solved, found
    elif solved is not None:
        notes = (*notes, f"{type(solver).__name__} was not better than nearest on held-out samples")
    wrong = error_of(taken).double()
    offset = -(wrong @ make.mean[..., None]).squeeze(-1)
    shifted = least + float((offset**2 + 2 * offset * (wrong @ judge.mean[..., None]).squeeze(-1)).sum())
    helps = shifted < least
    return Rounded(
        taken, offset.reshape(-1).float() if helps else None, min(least, shifted) / signal, before / signal, notes
    )


def round_alone(node: Node, weight: Tensor, spec: Spec, solver: Solver, why: str = NO_COLUMNS) -> Rounded:
    """The weight of a node whose inputs are not known, rounded to nearest. `why`: for the notes.

    Only of a table, whose rows are outputs themselves, is an error known: that of all rows alike.
    """
    matrix = rows_of(node, weight)
    found, error = _nearest(matrix, spec, solver), 0.0
    if node.op == "Gather":
        why, wrong = A_TABLE, found.dequantize() - matrix
        error = float(wrong.square().sum(dtype=torch.float64) / matrix.square().sum(dtype=torch.float64).clamp(1e-30))
    return Rounded(found, None, error, error, (f"{why}: rounded to nearest",))


def nearest(node: Node, step: WeightStep, weight: Tensor, solver: Solver) -> StoredWeight:
    """The weight of this node rounded to nearest, whatever it reads."""
    found = _nearest(rows_of(node, weight), step.spec, solver)
    return StoredWeight(step.name, output_axis(node), tuple(weight.shape), found, step.nodes)


def _nearest(matrix: Tensor, spec: Spec, solver: Solver) -> QTensor:
    plain = Nearest(solver.fitter) if isinstance(solver, Feedback) else solver
    return plain.solve(Problem(matrix, spec)).qtensor


def _solved(
    split: Float[Tensor, "groups out in"], spec: Spec, solver: Solver, moments: Moments
) -> tuple[QTensor | None, tuple[str, ...]]:
    """The solver's answer group by group; None where it would be that of nearest, or needs one scale for all groups."""
    if not solver.needs_gram or (len(split) > 1 and not may_cut_rows(spec)):
        return None, ()
    found = [solver.solve(Problem(rows, spec, gram)) for rows, gram in zip(split, moments.gram, strict=True)]
    notes = tuple(dict.fromkeys(note for solution in found for note in solution.notes))
    return stack_rows([solution.qtensor for solution in found]), notes
