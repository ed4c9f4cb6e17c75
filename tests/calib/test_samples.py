"""The table of samples: joined by index, in order of the indices, sums that do not depend on the order."""

from __future__ import annotations

import math

import torch

from bitwright.calib.samples import Samples, damaged_row, extremes_of, sample_rows


def table_of(*parts: tuple[torch.Tensor, int]) -> Samples:
    samples = Samples()
    for values, first in parts:
        samples.add(sample_rows(values, first, extremes_of(values)))
    return samples


def test_each_row_holds_the_extremes_and_moments_of_its_sample() -> None:
    values = torch.randn(3, 100_000)
    table = table_of((values, 7)).table()
    exact = values.double()
    expected = [torch.arange(7, 10).double(), exact.amin(1), exact.amax(1), exact.sum(1), exact.square().sum(1)]
    assert torch.allclose(table[:, :5], torch.stack(expected, 1), rtol=1e-12, atol=1e-9)
    assert table[:, 5:].tolist() == [[100_000, 0]] * 3


def test_parts_of_a_sample_are_joined_whatever_their_order() -> None:
    a, b = torch.tensor([[1.0, 5.0]]), torch.tensor([[-2.0]])
    for parts in (((a, 4), (b, 4), (a, 2)), ((a, 2), (b, 4), (a, 4))):
        assert table_of(*parts).table().tolist() == [[2, 1, 5, 6, 26, 2, 0], [4, -2, 5, 4, 30, 3, 0]]


def test_a_sample_without_finite_values_has_no_extremes() -> None:
    samples = table_of((torch.ones(1, 2), 3))
    samples.add(damaged_row(1, 8))
    assert samples.extremes().tolist() == [[1, 1]]
    assert samples.nonfinite == {1: 8} and samples.indices == [1, 3] and samples.count == 2
    assert samples.table()[0].tolist() == [1, math.inf, -math.inf, 0, 0, 0, 8]


def test_totals_are_the_same_bits_in_any_order_of_whole_samples() -> None:
    values = torch.randn(200, 33) * torch.logspace(-8, 8, 200)[:, None]
    expected = table_of((values, 0))
    for seed in range(3):
        order = torch.randperm(200, generator=torch.Generator().manual_seed(seed)).tolist()
        found = table_of(*((values[i : i + 1], i) for i in order))
        assert (found.total, found.square) == (expected.total, expected.square)


def test_many_parts_stay_one_row_per_sample() -> None:
    samples = table_of(*((torch.full((1, 1), float(i)), i % 3) for i in range(500)))
    assert samples.table().shape == (3, 7)
    assert samples.table()[:, 1:3].tolist() == [[0, 498], [1, 499], [2, 497]]


def test_an_empty_table_has_no_rows() -> None:
    assert Samples().table().shape == (0, 7) and Samples().total == 0.0 and Samples().count == 0
