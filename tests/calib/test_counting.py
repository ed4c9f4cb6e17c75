"""Counting in pieces and tables gives what counting number by number gives."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from bitwright.calib.counting import count_bins
from bitwright.calib.samples import CHUNK


def one_by_one(values: torch.Tensor, exponent: int) -> Counter[int]:
    """The bin of every number in exact arithmetic: floors upwards of zero, their mirror image below."""
    places = (math.ldexp(value, -exponent) for value in values.tolist())
    return Counter(math.floor(place) if place >= 0 else -math.floor(-place) - 1 for place in places)


def special() -> torch.Tensor:
    """Both zeros, subnormal numbers, edges of bins and their neighbours."""
    edges = torch.arange(-8.0, 9.0) / 8
    near = torch.cat([edges, torch.nextafter(edges, torch.tensor(9.0)), torch.nextafter(edges, torch.tensor(-9.0))])
    tiny = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38])
    return torch.cat([near, tiny])


def rectified(count: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(count)).relu()


@pytest.mark.parametrize(
    "values",
    [special(), special().abs(), -special().abs(), rectified(3), rectified(CHUNK + 1), rectified(3 * CHUNK)],
    ids=["both sides", "above", "below", "few", "one more than a piece", "pieces"],
)
@pytest.mark.parametrize("exponent", [-3, -5])
def test_counts_are_those_of_counting_one_by_one(values: torch.Tensor, exponent: int) -> None:
    wanted = one_by_one(values, exponent)
    first, last = min(*wanted, 0), max(*wanted, 0)
    counts, zeros = count_bins(values, exponent, first, last - first + 1)
    assert counts.tolist() == [wanted[place] for place in range(first, last + 1)]
    assert zeros == sum(value == 0 for value in values.tolist())


@pytest.mark.parametrize("exponent", [-126, 115])
def test_the_narrowest_and_the_widest_bins(exponent: int) -> None:
    values = torch.tensor([0.0, 1.0, -1.0, 1.5, 4000.0, -95.9]) * 2.0**exponent
    counts, zeros = count_bins(values, exponent, -96, 4097)
    assert zeros == 1
    assert {place - 96: count for place, count in enumerate(counts.tolist()) if count} == {
        0: 1,
        1: 2,
        -2: 1,
        4000: 1,
        -96: 1,
    }
