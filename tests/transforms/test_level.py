"""Levelling at sites: the rule channel by channel, and which readers take all of it in their rows."""

from __future__ import annotations

import pytest
import torch

from bitwright.graph.channels import Site, find_sites
from bitwright.transforms import Level, is_taken_by_rows, open_clips
from conformance.networks import Toy, depthwise, grouped, plain


def sites(toy: Toy) -> list[tuple[Site, bool]]:
    network, constants, _ = toy
    network, constants = open_clips(network, constants).apply(network, constants)
    return [(site, is_taken_by_rows(network, site)) for site in find_sites(network, constants).sites]


@pytest.mark.parametrize("bound", [None, 6.0])
def test_a_channel_is_divided_by_its_share_of_the_range(bound: float | None) -> None:
    largest = torch.tensor([6.0, 3.0, 0.5, 0.0, 1e-4])
    scale = Level(1.25, 0.01).scale(largest, bound)
    for found, size in zip(scale.tolist(), largest.tolist(), strict=True):
        assert found == pytest.approx(1.0 if size == 0 else min(max(1.25 * size / 6.0, 0.01), 1.0))
    assert float(Level().scale(largest, 2.0).max()) == 1  # so that no bound is widened


def test_channels_that_do_not_reach_the_bound_are_raised_to_it() -> None:
    largest = torch.tensor([2.0, 4.0])
    for room in (1.0, 2.0):
        reached = largest / Level(room).scale(largest, 8.0)
        assert torch.allclose(reached, torch.full((2,), 8.0 / room, dtype=torch.float64))
    assert torch.equal(Level().scale(torch.zeros(3)), torch.ones(3, dtype=torch.float64))


def test_a_depthwise_reader_takes_it_in_its_rows_and_a_dense_one_does_not() -> None:
    assert [taken for _, taken in sites(depthwise())] == [True, False]
    assert [taken for _, taken in sites(plain())] == [False]
    assert next(taken for _, taken in sites(grouped()))  # 12 channels into 24, two rows for each


@pytest.mark.parametrize("level", [(1.5, 0.0), (1.5, 2.0), (0.9, 0.1)])
def test_what_cannot_be_is_refused(level: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="at most 1"):
        Level(*level)
