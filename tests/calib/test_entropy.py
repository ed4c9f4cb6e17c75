"""Relative entropy in closed form against the loop that it replaces, and the known bands of the normal distribution."""

from __future__ import annotations

import math

import pytest
import torch

from bitwright.calib import Entropy
from bitwright.calib.entropy import least_entropy
from conformance.ranges import ACTIVATIONS, seen


def by_loop(counts: list[int], levels: int) -> tuple[int, float]:
    """Bins kept and their relative entropy: one candidate, one group, one bin at a time."""
    best, least = len(counts), math.inf
    for kept in range(levels, len(counts) + 1):
        reference = [float(n) for n in counts[:kept]]
        reference[-1] += sum(counts[kept:])
        spread = [0.0] * kept
        for group in range(levels):
            bins = [j for j in range(kept) if j * levels // kept == group]
            used = [j for j in bins if counts[j] > 0]
            for j in used:
                spread[j] = sum(counts[i] for i in bins) / len(used)
        p_sum, q_sum = sum(reference), sum(spread)
        cost = 0.0
        for p, q in zip(reference, spread, strict=True):
            if p > 0:
                cost += math.inf if q == 0 else p / p_sum * math.log(p / p_sum * q_sum / q)
        if cost <= least + 1e-12:
            best, least = kept, min(cost, least)
    return best, least


def random_counts(kind: str, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3000, generator=generator).abs()
    if kind == "laplace":
        x = -torch.rand(3000, generator=generator).log()
    if kind == "outlier":
        x[0] = 20.0
    if kind == "gap":
        x = torch.where(x > 1, x + 2, x)
    return torch.bincount((x / float(x.max()) * 95.999).long(), minlength=96)


@pytest.mark.parametrize("levels", [2, 7, 8, 16, 40])
@pytest.mark.parametrize("kind", ["normal", "laplace", "outlier", "gap"])
@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_keeps_the_bins_that_the_loop_keeps(kind: str, seed: int, levels: int) -> None:
    counts = random_counts(kind, seed)
    assert least_entropy(counts, levels) == by_loop(counts.tolist(), levels)[0]


def test_trailing_empty_bins_are_kept_as_the_larger_of_equal_candidates() -> None:
    counts = torch.tensor([5, 5, 5, 5, 0, 0, 0, 0])
    assert least_entropy(counts, 4) == by_loop(counts.tolist(), 4)[0]


@pytest.mark.parametrize("counts", [[0, 0, 0], [4, 3], [1]])
def test_too_few_bins_or_no_values_are_all_kept(counts: list[int]) -> None:
    assert least_entropy(torch.tensor(counts), 2) == len(counts)


def normal(count: int = 1_000_000) -> torch.Tensor:
    return torch.randn(10, count // 10, generator=torch.Generator().manual_seed(3))


def test_the_known_bands_of_the_normal_distribution() -> None:
    histogram = seen(normal())
    assert 4.3 <= Entropy().range(histogram, ACTIVATIONS["int8"])[1] <= 5.1
    assert 3.3 <= Entropy().range(histogram, ACTIVATIONS["int4"])[1] <= 3.8


def test_the_known_bands_of_the_laplace_distribution() -> None:
    generator = torch.Generator().manual_seed(3)
    values = -torch.rand(10, 100_000, generator=generator).log() * torch.sign(normal())
    histogram = seen(values)
    assert 9.5 <= Entropy().range(histogram, ACTIVATIONS["int8"])[1] <= 11.5
    assert 5.8 <= Entropy().range(histogram, ACTIVATIONS["int4"])[1] <= 6.5


def test_exact_zeros_do_not_decide() -> None:
    values = normal(100_000).abs()
    sparse = torch.cat([values, torch.zeros(10, 500_000)], 1)
    for name in ("uint8", "uint4"):
        found, other = (Entropy().range(seen(x), ACTIVATIONS[name])[1] for x in (values, sparse))
        assert found == pytest.approx(other, rel=0.02)


def test_values_on_one_side_have_all_levels_there() -> None:
    low, high = Entropy().range(seen(-normal(100_000).abs()), ACTIVATIONS["uint4"])
    mirrored = Entropy().range(seen(normal(100_000).abs()), ACTIVATIONS["uint4"])
    assert high == 0.0 and low == -mirrored[1]
