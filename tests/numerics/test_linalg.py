"""The factor of the inverse against torch's inverse; what happens where there is none."""

from __future__ import annotations

import pytest
import torch

from bitwright.numerics.linalg import (
    dead_columns,
    inverse_factor,
    is_finite,
    revived_diagonal,
)
from conformance.specs import random_gram


@pytest.mark.parametrize("damp", [1e-6, 0.01, 1.0])
def test_the_factor_squared_is_the_damped_inverse(damp: float) -> None:
    gram = random_gram(24).double()
    found = inverse_factor(gram, damp)
    assert found is not None and found.notes == ()
    assert found.damping == pytest.approx(damp * float(gram.diagonal().mean()), rel=1e-12)
    expected = torch.linalg.inv(gram + found.damping * torch.eye(24, dtype=torch.float64))
    upper = found.upper.part(slice(0, 24), slice(0, 24)).double()
    squared = upper.mT @ upper
    assert torch.allclose(squared, expected, rtol=1e-5, atol=1e-6 * float(expected.max()))
    assert torch.equal(upper, upper.triu()) and bool((found.upper.diagonal() > 0).all())


def test_an_order_rearranges_rows_and_columns_first() -> None:
    gram, order = random_gram(24), torch.randperm(24, generator=torch.Generator().manual_seed(0))
    found, expected = inverse_factor(gram, 0.01, order), inverse_factor(gram[order][:, order].contiguous(), 0.01)
    assert found is not None and expected is not None
    assert torch.allclose(found.upper.strips[0], expected.upper.strips[0], rtol=1e-6)


def test_the_gram_matrix_is_left_alone() -> None:
    gram = random_gram(8).double()  # already float64: `double()` would not copy it
    gram[3] = gram[:, 3] = 0
    before = gram.clone()
    inverse_factor(gram, 0.01)
    revived_diagonal(gram)
    assert torch.equal(gram, before)


def test_an_indefinite_matrix_is_damped_harder_and_says_so() -> None:
    gram = torch.eye(4, dtype=torch.float64)
    gram[0, 1] = gram[1, 0] = 1.05
    found = inverse_factor(gram, 0.01)
    assert found is not None
    assert found.notes == ("Gram matrix not positive definite: damping x10",)
    assert found.damping == pytest.approx(10 * 0.01 * float(gram.diagonal().mean()))


@pytest.mark.parametrize("entry", [torch.nan, torch.inf, 1e6])
def test_a_hopeless_matrix_has_no_factor(entry: float) -> None:
    gram = torch.eye(4)
    gram[1, 2] = gram[2, 1] = entry
    assert inverse_factor(gram, 0.01) is None


def test_dead_columns_are_those_with_nothing_on_the_diagonal() -> None:
    gram = torch.diag(torch.tensor([1.0, 0.0, 3.0, -1e-9]))
    assert dead_columns(gram).tolist() == [False, True, False, True]
    assert revived_diagonal(gram).tolist() == [1, 2, 3, 2]
    assert revived_diagonal(torch.zeros(3, 3)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_number_that_is_none_is_found(bad: float) -> None:
    matrix = torch.randn(5, 7)
    assert is_finite(matrix) and is_finite(torch.zeros(0, 3))
    matrix[3, 2] = bad
    assert not is_finite(matrix)
