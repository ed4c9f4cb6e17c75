"""Grids of the user's own: ties, refused tables, the published NF4 table."""

from __future__ import annotations

import pytest
import torch

from bitwright.numerics import BINARY, NF4, TERNARY, Grid


def normal_quantile(p: float) -> float:
    return float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64)))


def test_nf4_is_made_of_normal_quantiles() -> None:
    """QLoRA appendix E: 8 quantiles above and 7 below zero, each half scaled to its largest."""
    offset = 0.9677083
    up = [normal_quantile(offset + (0.5 - offset) * i / 8) for i in range(8)]
    down = [-normal_quantile(offset + (0.5 - offset) * i / 7) for i in range(7)]
    expected = sorted([*up, 0.0, *down])
    assert torch.tensor(NF4.points).tolist() == pytest.approx([v / expected[-1] for v in expected], abs=1e-5)


@pytest.mark.parametrize(("grid", "bits"), [(BINARY, 1), (TERNARY, 2), (NF4, 4), (Grid(tuple(range(17))), 5)])
def test_bits_are_enough_for_every_point(grid: Grid, bits: int) -> None:
    assert grid.bits == bits


def test_ties_go_to_the_lower_point() -> None:
    assert TERNARY.nearest(torch.tensor([-0.5, 0.5])).tolist() == [-1, 0]


def test_a_middle_that_is_no_float32_does_not_swallow_its_upper_neighbour() -> None:
    low, high = 1.0, float(torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)))
    assert Grid((low, high)).nearest(torch.tensor([low, high])).tolist() == [low, high]


@pytest.mark.parametrize("points", [(1.0,), (1.0, 0.0), (0.0, 0.0), (0.0, float("inf")), tuple(range(257))])
def test_other_tables_are_refused(points: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="grid"):
        Grid(points)
