"""Distances between outputs, batch by batch, against numpy over all at once; and what has none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bitwright.evaluate.agreement import Compared, Distance, named
from bitwright.evaluate.error import EvaluateError


def test_the_sums_of_batches_are_those_of_everything_at_once() -> None:
    exact = [torch.randn(size, 3, generator=torch.Generator().manual_seed(size)) for size in (1, 4, 7)]
    made = [one + 0.1 * one.square() for one in exact]
    distance = Distance()
    for reference, found in zip(exact, made, strict=True):
        distance.add(reference, found)
    every, other = (np.concatenate([one.numpy() for one in many]).astype(np.float64) for many in (exact, made))
    expected = 10 * np.log10((every**2).sum() / ((every - other) ** 2).sum())
    assert distance.decibels() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("reference", "found", "decibels"),
    [(1.0, 1.0, 300), (0.0, 0.0, 300), (0.0, 1.0, -300), (1.0, 0.0, 0), (1.0, 2.0, 0), (math.nan, 1.0, None)],
)
def test_edges_have_a_finite_distance_or_none(reference: float, found: float, decibels: float | None) -> None:
    distance = Distance()
    distance.add(torch.tensor([reference]), torch.tensor([found]))
    assert distance.decibels() == (None if decibels is None else pytest.approx(decibels))


def test_the_first_batch_that_is_not_finite_is_named() -> None:
    compared = Compared("y")
    for batch, value in enumerate((1.0, math.inf, math.nan)):
        compared.add(batch, torch.tensor([value]), torch.tensor([1.0]), None)
    found = compared.agreement()
    assert found.bad_batch == 1 and not found.is_finite and found.is_original_finite and found.original_db is None


def test_an_original_that_is_not_finite_is_told_apart() -> None:
    compared = Compared("y")
    compared.add(0, torch.tensor([math.nan]), torch.tensor([math.nan]), None)
    assert not compared.agreement().is_original_finite


def test_other_sizes_are_counted_and_wrong_throughout() -> None:
    compared = Compared("boxes")
    compared.add(0, torch.full((2, 2), 5.0), torch.ones(3, 2), torch.ones(3, 2))
    compared.add(1, torch.ones(4, 2), torch.ones(4, 2), torch.ones(4, 2))
    found = compared.agreement()
    assert found.reshaped == 1
    assert found.original_db == found.simulation_db == pytest.approx(10 * math.log10(14 / 6))


def test_other_axes_and_a_missing_output_are_refused() -> None:
    with pytest.raises(
        EvaluateError, match=r"y: the quantized file makes shape \[2\], but the simulation's .* \[1, 2\]"
    ):
        Compared("y").add(0, torch.zeros(2), torch.zeros(2), torch.zeros(1, 2))
    with pytest.raises(EvaluateError, match="y: an output of the quantized file that the original lacks; it has z"):
        named({"z": torch.zeros(1)}, "y", "the original")
