"""The solvers in the conformance table, on every spec; the loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bitwright import solvers
from bitwright.numerics import Spec
from bitwright.solvers import Solver, output_loss
from conformance.solvers import CHECKS, SOLVERS
from conformance.specs import CORE, SPECS, random_gram, random_weight

FIRST = ("Nearest", "Feedback")  # on every spec also in the quick run
MATRIX = [
    pytest.param(solver, spec, id=f"{method}-{name}", marks=() if method in FIRST or name in CORE else pytest.mark.slow)
    for method, solver in SOLVERS.items()
    for name, spec in SPECS.items()
]


@pytest.mark.parametrize(("solver", "spec"), MATRIX)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_solver_conforms(check: Callable[[Solver, Spec], None], solver: Solver, spec: Spec) -> None:
    check(solver, spec)


def test_every_exported_solver_is_in_the_table() -> None:
    exported = [vars(solvers)[name] for name in solvers.__all__]
    kinds = {one for one in exported if isinstance(one, type) and issubclass(one, Solver)} - {Solver}
    assert kinds == {type(solver) for solver in SOLVERS.values()}


def test_loss_is_the_mean_squared_output_error_per_token() -> None:
    inputs, error = torch.randn(50, 12), random_weight(7, 12)
    expected = float((inputs.double() @ error.double().mT).square().sum() / 50)
    assert output_loss(error, inputs.mT @ inputs / 50) == pytest.approx(expected, rel=1e-5)


def test_without_a_gram_matrix_loss_is_the_squared_weight_error() -> None:
    error = random_weight(7, 12)
    assert output_loss(error, None) == pytest.approx(output_loss(error, torch.eye(12)), rel=1e-5)


def test_loss_of_no_error_is_zero() -> None:
    assert output_loss(torch.zeros(3, 8), random_gram(8)) == 0.0
