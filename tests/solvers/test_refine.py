"""Refinements never raise the loss, and reach what slow references reach."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitwright.numerics import QTensor, Spec, per_group
from bitwright.solvers import Feedback, Nearest, Order, Problem, refine
from bitwright.solvers.refine import Damped, descend, refit
from conformance import references
from conformance.specs import ROWWISE, SPECS, random_gram, random_weight

ROWS, COLS = 16, 128


def damped(gram: Tensor) -> Tensor:
    return gram + 0.01 * gram.diagonal().mean() * torch.eye(len(gram))


def problem(qtensor: QTensor, target: Tensor, gram: Tensor) -> Damped:
    return Damped(Problem(target, qtensor.spec, gram))


def losses(qtensor: QTensor, target: Tensor, gram: Tensor) -> Tensor:
    """The loss of every row, float64."""
    error = qtensor.dequantize().double() - target.double()
    return ((error @ gram.double()) * error).sum(1)


def start(name: str, solver: str) -> tuple[QTensor, Tensor, Tensor]:
    weight, gram = random_weight(ROWS, COLS), random_gram(COLS)
    chosen = Nearest() if solver == "Nearest" else Feedback(Nearest().fitter)
    return chosen.solve(Problem(weight, SPECS[name], gram)).qtensor, weight, damped(gram)


@pytest.mark.parametrize("solver", ["Nearest", "Feedback"])
@pytest.mark.parametrize("name", SPECS)
def test_a_descent_raises_the_loss_of_no_row(name: str, solver: str) -> None:
    before, weight, gram = start(name, solver)
    after = descend(before, problem(before, weight, gram), 2)
    assert after.spec == before.spec
    assert bool((losses(after, weight, gram) <= losses(before, weight, gram) * (1 + 1e-5)).all())


@pytest.mark.parametrize("solver", ["Nearest", "Feedback"])
@pytest.mark.parametrize("name", ROWWISE)
def test_a_refit_raises_the_loss_of_no_row(name: str, solver: str) -> None:
    before, weight, gram = start(name, solver)
    after = refit(before, problem(before, weight, gram))
    assert torch.equal(after.codes, before.codes)
    assert bool((losses(after, weight, gram) <= losses(before, weight, gram) * (1 + 1e-5)).all())


@pytest.mark.parametrize("name", ROWWISE)
def test_both_together_lower_the_loss_of_nearest(name: str) -> None:
    before, weight, gram = start(name, "Nearest")
    whole_problem, damping = Problem(weight, SPECS[name], gram), 0.01 * float(gram.diagonal().mean())
    after = refine(before, whole_problem, damping, sweeps=2, refits=1)
    whole = gram + damping * torch.eye(COLS)
    assert float(losses(after, weight, whole).sum()) < 0.9 * float(losses(before, weight, whole).sum())


def test_a_descent_equals_one_by_hand() -> None:
    """One sweep in float64: every column in turn takes the nearest code to where its parabola is lowest."""
    before, weight, gram = start("int4_asymmetric", "Nearest")
    spec, params = before.spec, before.params
    assert params is not None and params.zero is not None and spec.tile is not None
    scale = spec.tile.spread(params.scale, (ROWS, COLS)).double()
    zero = spec.tile.spread(params.zero, (ROWS, COLS)).double()
    value, exact = before.dequantize().double(), gram.double()
    for k in range(COLS):
        slope = (value - weight.double()) @ exact[:, k]
        wanted = (value[:, k] - slope / exact[k, k]) / scale[:, k] + zero[:, k]
        value[:, k] = (references.nearest(spec.format.values(), wanted) - zero[:, k]) * scale[:, k]
    found = descend(before, problem(before, weight, gram), 1).dequantize().double()
    assert float(((found - value).abs() < 1e-4 * scale).double().mean()) >= 0.999


def test_a_descent_from_the_optimum_changes_nothing() -> None:
    before, weight, gram = start("int4", "Feedback")
    settled = descend(before, problem(before, weight, gram), 50)
    assert torch.equal(descend(settled, problem(before, weight, gram), 1).codes, settled.codes)


def test_a_weight_on_the_grid_stays() -> None:
    before, _, gram = start("int4_asymmetric", "Nearest")
    exact = problem(before, before.dequantize(), gram)
    after = refit(descend(before, exact, 1), exact)
    assert torch.equal(after.dequantize(), before.dequantize())


@pytest.mark.parametrize("name", ["int4", "int3_asymmetric", "nf4"])
def test_a_refit_reaches_least_squares(name: str) -> None:
    """Row by row: minimise |R (sum over groups of s_g level_g - t)| for the scales s, with H = R'R."""
    spec = Spec(SPECS[name].format, per_group(32), zero=SPECS[name].zero)  # scales in float32
    weight, gram = random_weight(ROWS, COLS), damped(random_gram(COLS))
    before = Feedback(Nearest().fitter, order=Order.NATURAL).solve(Problem(weight, spec, gram)).qtensor
    root = torch.linalg.cholesky(gram.double()).mT
    params = before.params
    assert params is not None
    levels = before.dequantize().double() / params.scale.double().repeat_interleave(32, 1)
    after = refit(before, problem(before, weight, gram))
    found = losses(after, weight, gram)
    for i in range(ROWS):
        columns = torch.zeros(COLS, COLS // 32, dtype=torch.float64)
        for g in range(COLS // 32):
            part = slice(32 * g, 32 * g + 32)
            columns[part, g] = levels[i, part]
        best = torch.linalg.lstsq(root @ columns, root @ weight[i].double()[:, None]).solution
        assert bool((best.flatten() * params.scale[i] > 0).all()), "a scale changed its sign: choose another seed"
        error = root @ (columns @ best - weight[i].double()[:, None])
        assert float(found[i]) == pytest.approx(float(error.square().sum()), rel=1e-4)


def test_shared_scales_are_not_refitted() -> None:
    for name in ("nvfp4", "k_quant", "int8_tensor", "fp8_block"):
        before, weight, gram = start(name, "Nearest")
        assert refit(before, problem(before, weight, gram)) is before


def test_columns_that_were_never_seen_keep_their_codes() -> None:
    before, weight, _gram = start("int4", "Nearest")
    dead = random_gram(COLS)
    dead[5] = dead[:, 5] = 0
    after = refine(before, Problem(weight, before.spec, dead), 0.01, 2, 0)
    assert torch.equal(after.codes[:, 5], before.codes[:, 5])
    assert bool(torch.isfinite(after.dequantize()).all())
