"""The factor of the inverse against torch's inverse; what happens where there is none."""

from __future__ import annotations

import pytest
import torch

from bitwright.numerics.linalg import damped_solve, dead_columns, inverse_factor, revive
from conformance.specs import random_gram


@pytest.mark.parametrize("damp", [1e-6, 0.01, 1.0])
def test_the_factor_squared_is_the_damped_inverse(damp: float) -> None:
    gram = random_gram(24).double()
    found = inverse_factor(gram, damp)
    assert found is not None and found.notes == ()
    assert found.damping == pytest.approx(damp * float(gram.diagonal().mean()), rel=1e-12)
    expected = torch.linalg.inv(gram + found.damping * torch.eye(24, dtype=torch.float64))
    assert torch.allclose(found.upper.mT @ found.upper, expected, rtol=1e-8, atol=1e-12 * float(expected.max()))
    assert torch.equal(found.upper, found.upper.triu()) and bool((found.upper.diagonal() > 0).all())


def test_the_gram_matrix_is_left_alone() -> None:
    gram = random_gram(8)
    gram[3] = gram[:, 3] = 0
    before = gram.clone()
    inverse_factor(gram, 0.01)
    revive(gram)
    assert torch.equal(gram, before)


def test_an_indefinite_matrix_is_damped_harder_and_says_so() -> None:
    gram = torch.diag(torch.tensor([1.0, 1.0, 1.0, -0.05], dtype=torch.float64))
    found = inverse_factor(gram, 0.01)
    assert found is not None
    assert found.notes == ("Gram matrix not positive definite: damping x10",)
    assert found.damping == pytest.approx(10 * 0.01 * float(gram.diagonal().mean()))


@pytest.mark.parametrize("entry", [torch.nan, torch.inf, -1e6])
def test_a_hopeless_matrix_has_no_factor(entry: float) -> None:
    gram = torch.eye(4)
    gram[1, 1] = entry
    assert inverse_factor(gram, 0.01) is None


def test_dead_columns_are_those_with_nothing_on_the_diagonal() -> None:
    gram = torch.diag(torch.tensor([1.0, 0.0, 3.0, -1e-9]))
    assert dead_columns(gram).tolist() == [False, True, False, True]
    assert revive(gram).diagonal().tolist() == [1, 2, 3, 2]
    assert revive(torch.zeros(3, 3)).diagonal().tolist() == [1, 1, 1]


def test_damped_solve_is_multiplication_with_the_inverse() -> None:
    gram, right = random_gram(12).double(), torch.randn(5, 12)
    expected = right.double() @ torch.linalg.inv(gram + 0.3 * torch.eye(12, dtype=torch.float64))
    assert torch.allclose(damped_solve(gram, 0.3, right), expected, rtol=1e-9, atol=1e-12)
