"""Triangles in strips against whole matrices."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from bitwright.numerics.triangle import ROWS, Lower, Upper
from conformance.specs import random_gram

SIZES = [1, 255, 257, 700, ROWS, ROWS + 1, pytest.param(2500, marks=pytest.mark.slow)]


@pytest.mark.parametrize("size", SIZES)
def test_factor_and_inverse_are_those_of_torch(size: int) -> None:
    gram = random_gram(size).double()
    order, extra = torch.randperm(size, generator=torch.Generator().manual_seed(0)), torch.full((size,), 0.01)
    triangle = Lower.of(gram, order, gram.diagonal() + extra)
    expected = torch.linalg.cholesky((gram + extra.diag())[order][:, order])
    assert triangle.factor()
    assert torch.allclose(whole_lower(triangle), expected, rtol=1e-9, atol=1e-12)
    triangle.invert()
    assert triangle.is_sound()
    inverse = whole_lower(triangle)
    assert torch.allclose(inverse @ expected, torch.eye(size, dtype=torch.float64), atol=1e-8)
    assert torch.equal(whole_upper(triangle.take_reversed()), inverse.float().flip(0, 1))
    assert not triangle.strips


def test_an_indefinite_matrix_has_no_factor_wherever_that_shows() -> None:
    matrix = torch.eye(ROWS + 300)
    matrix[ROWS + 200, ROWS + 100] = matrix[ROWS + 100, ROWS + 200] = 1.05
    assert not Lower.of(matrix, torch.arange(len(matrix)), matrix.diagonal().double()).factor()


def test_a_triangle_takes_little_more_than_half_a_square() -> None:
    triangle = Lower.of(torch.eye(5000), torch.arange(5000), torch.ones(5000, dtype=torch.float64))
    assert sum(strip.numel() for strip in triangle.strips) < 0.61 * 5000**2


def test_what_is_not_finite_on_the_diagonal_is_found_in_every_strip() -> None:
    size = ROWS + 76
    for row in (3, 75, 76, size - 1):
        triangle = Lower.of(torch.eye(size), torch.arange(size), torch.ones(size, dtype=torch.float64))
        assert triangle.is_sound()
        triangle.strips[int(row >= 76)][row - (76 if row >= 76 else 0), row] = float("inf")
        assert not triangle.is_sound()


@pytest.mark.parametrize("size", [5, ROWS, ROWS + 3, 2 * ROWS + 70])
def test_products_parts_and_diagonal_are_those_of_the_whole(size: int) -> None:
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(1)).triu()
    upper = Upper([matrix[top : top + ROWS, top:].contiguous() for top in range(0, size, ROWS)])
    rows = torch.randn(3, size, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(upper.after(rows), rows @ matrix, atol=1e-3)
    assert torch.allclose(upper.transposed_after(rows), rows @ matrix.mT, atol=1e-3)
    assert torch.equal(upper.diagonal(), matrix.diagonal())
    cuts = sorted({0, 1, 4, size // 2, min(size, ROWS), min(size, ROWS + 1), size})
    for start, stop in itertools.pairwise(cuts):
        for first, last in ((start, stop), (stop, size), (start, size)):
            assert torch.equal(upper.part(slice(start, stop), slice(first, last)), matrix[start:stop, first:last])


def whole_lower(triangle: Lower) -> Tensor:
    """The square."""
    found = torch.zeros(triangle.size, triangle.size, dtype=torch.float64)
    for strip in triangle.strips:
        found[strip.shape[1] - len(strip) : strip.shape[1], : strip.shape[1]] = strip
    assert torch.equal(found, found.tril())
    return found


def whole_upper(triangle: Upper) -> Tensor:
    """The square."""
    found = torch.zeros(triangle.size, triangle.size)
    for place, strip in enumerate(triangle.strips):
        found[place * ROWS : place * ROWS + len(strip), place * ROWS :] = strip
    assert torch.equal(found, found.triu())
    return found
