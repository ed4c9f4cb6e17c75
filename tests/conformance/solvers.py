"""What every solver has to satisfy on every spec. Outsiders: `check(solver, spec)` for each `check` in CHECKS."""

from __future__ import annotations

from functools import cache

import torch

from bitwright.numerics import Int, MseGrid, Spec
from bitwright.solvers import Feedback, Groups, Nearest, Order, Problem, Solution, Solver, output_loss
from conformance.specs import on_the_grid, random_gram, random_weight

SOLVERS: dict[str, Solver] = {
    "Nearest": Nearest(),
    "Feedback": Feedback(MseGrid(steps=3, fine=1)),
    "Feedback dynamic": Feedback(MseGrid(steps=3, fine=1), order=Order.NATURAL, groups=Groups.DYNAMIC),
    "Feedback refined": Feedback(MseGrid(steps=3, fine=1), sweeps=1, refits=1),
}

SHAPE = (8, 128)


def problem(spec: Spec, seed: int = 0) -> Problem:
    return Problem(random_weight(*SHAPE, seed=seed), spec, random_gram(SHAPE[1], seed))


@cache
def answer(solver: Solver, spec: Spec) -> Solution:
    """The solution of `problem(spec)`, solved once for all checks."""
    return solver.solve(problem(spec))


def the_answer_is_a_finite_tensor_of_that_spec(solver: Solver, spec: Spec) -> None:
    found = answer(solver, spec)
    assert found.qtensor.spec == spec and found.qtensor.shape == SHAPE and found.notes == ()
    assert bool(torch.isfinite(found.qtensor.dequantize()).all())
    assert found.qtensor.codes.dtype == spec.format.encode(torch.zeros(1)).dtype
    assert torch.equal(spec.format.unpack(spec.format.pack(found.qtensor.codes), SHAPE), found.qtensor.codes)


def the_loss_is_that_of_the_answer(solver: Solver, spec: Spec) -> None:
    asked = problem(spec)
    found = answer(solver, spec)
    assert asked.gram is not None
    error = found.qtensor.dequantize().double() - asked.target.double()
    expected = float(torch.trace(error @ asked.gram.double() @ error.mT))
    assert abs(found.loss - expected) <= 1e-5 * expected
    assert found.loss == output_loss(found.qtensor.dequantize() - asked.target, asked.gram)


def the_same_question_has_the_same_answer_and_is_left_alone(solver: Solver, spec: Spec) -> None:
    asked, untouched = problem(spec), problem(spec)
    one, other = answer(solver, spec), solver.solve(asked)
    assert torch.equal(one.qtensor.codes, other.qtensor.codes) and one.loss == other.loss
    assert asked.gram is not None and untouched.gram is not None
    assert torch.equal(asked.target, untouched.target) and torch.equal(asked.gram, untouched.gram)


def a_weight_on_the_grid_is_returned(solver: Solver, spec: Spec) -> None:
    if spec.zero is not None and (spec.zero.tile is not None or not isinstance(spec.zero.format, Int)):
        return  # a real zero makes no element land on a code exactly
    weight = on_the_grid(spec, *SHAPE).dequantize()
    found = solver.solve(Problem(weight, spec, random_gram(SHAPE[1])))
    assert torch.allclose(
        found.qtensor.dequantize(), weight, rtol=2e-7, atol=0
    )  # a float32 scale may move by its last bit


def rows_may_be_permuted(solver: Solver, spec: Spec) -> None:
    if spec.tile is not None and spec.tile.rows not in (1, None):
        return  # rows of one block have to stay together
    asked = problem(spec)
    rows = torch.randperm(SHAPE[0], generator=torch.Generator().manual_seed(0))
    moved = solver.solve(Problem(asked.target[rows], spec, asked.gram)).qtensor.dequantize()
    here = answer(solver, spec).qtensor.dequantize()[rows]
    assert float((moved == here).float().mean()) >= 0.999


def a_column_that_was_never_seen_is_rounded_to_nearest(solver: Solver, spec: Spec) -> None:
    asked = problem(spec)
    assert asked.gram is not None
    asked.gram[5] = asked.gram[:, 5] = 0
    found = solver.solve(asked).qtensor
    weight, value = asked.target[:, 5], found.dequantize()[:, 5]
    assert found.params is not None and spec.tile is not None
    scale = spec.tile.spread(found.params.scale, SHAPE)[:, 5]
    zero = 0.0 if found.params.zero is None else spec.tile.spread(found.params.zero, SHAPE)[:, 5]
    nearest = (spec.format.nearest(weight / scale + zero) - zero) * scale
    assert torch.allclose(value, nearest, rtol=1e-6, atol=1e-9)


CHECKS = (
    the_answer_is_a_finite_tensor_of_that_spec,
    the_loss_is_that_of_the_answer,
    the_same_question_has_the_same_answer_and_is_left_alone,
    a_weight_on_the_grid_is_returned,
    rows_may_be_permuted,
    a_column_that_was_never_seen_is_rounded_to_nearest,
)
