"""Sums over tokens: monoids, against float64."""

from __future__ import annotations

import pytest
import torch

from bitwright.calib import Cross, Gram, full_products, gram, short_products


def summed(*parts: tuple[torch.Tensor, torch.Tensor]) -> Cross:
    one = Cross(parts[0][0].shape[1], parts[0][1].shape[1])
    for left, right in parts:
        one.add(left, right)
    return one


def whole_numbers(tokens: int, cols: int, seed: int) -> torch.Tensor:
    """Small integers, whose sums of products are exact in float32 in any order."""
    return torch.randint(-8, 9, (tokens, cols), generator=torch.Generator().manual_seed(seed)).float()


def test_merging_is_associative_order_free_and_equals_one_pass() -> None:
    pieces = [(whole_numbers(n, 5, n), whole_numbers(n, 7, 90 + n)) for n in (3, 1, 8, 20)]
    at_once = summed(*pieces)
    left_to_right, right_to_left = summed(pieces[0]), summed(pieces[3])
    for piece in pieces[1:]:
        left_to_right.merge(summed(piece))
    for piece in pieces[2::-1]:
        right_to_left.merge(summed(piece))
    pairs = summed(*pieces[:2])
    pairs.merge(summed(*pieces[2:]))
    whole = summed((torch.cat([a for a, _ in pieces]), torch.cat([b for _, b in pieces])))
    for other in (left_to_right, right_to_left, pairs, whole):
        assert torch.equal(at_once.total, other.total) and at_once.tokens == other.tokens == 32


def test_an_empty_sum_changes_nothing() -> None:
    one, other = summed((whole_numbers(4, 3, 0), whole_numbers(4, 3, 1))), Cross(3, 3)
    before = one.mean().clone()
    one.merge(other)
    assert torch.equal(one.mean(), before)
    assert torch.equal(other.mean(), torch.zeros(3, 3))


def test_no_tokens_may_be_added() -> None:
    one = Cross(3, 3)
    one.add(torch.zeros(0, 3), torch.zeros(0, 3))
    assert one.tokens == 0 and torch.equal(one.mean(), torch.zeros(3, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_mean_equals_float64_to_a_hundred_thousandth_of_the_diagonal(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(4096, 96) @ torch.randn(96, 96) * torch.logspace(0, 1, 96)).to(dtype)
    exact = inputs.double().mT @ inputs.double() / len(inputs)
    size = exact.diagonal().sqrt()
    assert float(((gram(inputs).double() - exact).abs() / (size[:, None] * size)).max()) < 1e-5


@pytest.mark.parametrize("size", [5, 256, 700])
def test_half_of_a_gram_matrix_mirrored_is_all_of_it(size: int) -> None:
    parts = [whole_numbers(n, size, n) for n in (9, 1, 30)]
    one = Gram(size)
    for part in parts:
        one.add(part)
    wanted = torch.cat(parts).double().mT @ torch.cat(parts).double()
    assert torch.equal(one.total.double(), wanted) and torch.equal(one.total.double(), wanted)
    other = Gram(size)
    other.add(parts[0])
    other.merge(one)
    assert other.tokens == 49 and torch.equal(other.total.double(), wanted + (parts[0].mT @ parts[0]).double())
    assert torch.equal(one.take_mean(), (wanted / 40).float())


def test_products_that_must_not_be_short_are_those_of_float32() -> None:
    inputs = torch.randn(1024, 300, generator=torch.Generator().manual_seed(0))
    with full_products():
        found = inputs.mT @ inputs
    assert float((found - inputs.double().mT @ inputs.double()).abs().max()) < 1e-2


def test_a_cross_product_keeps_left_as_rows() -> None:
    left, right = whole_numbers(6, 2, 0), whole_numbers(6, 3, 1)
    expected = torch.stack([torch.outer(a, b) for a, b in zip(left, right, strict=True)]).mean(0)
    assert torch.allclose(summed((left, right)).mean(), expected)


def test_half_precision_outliers_stay_finite() -> None:
    inputs = torch.full((64, 4), 6e4, dtype=torch.float16)
    assert torch.allclose(gram(inputs), torch.full((4, 4), float(inputs[0, 0]) ** 2))


def test_the_setting_for_products_is_put_back_also_after_an_error() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), short_products(allowed=True):
        raise KeyError
    assert torch.get_float32_matmul_precision() == before
