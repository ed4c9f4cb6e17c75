"""Integers: ranges, ties, refused widths."""

from __future__ import annotations

import pytest
import torch

from bitwright.numerics import Int


@pytest.mark.parametrize("width", range(1, 9))
def test_values_are_all_integers_of_that_width(width: int) -> None:
    half = 2 ** (width - 1)
    assert Int(width).values().tolist() == list(range(-half, half))
    assert Int(width, signed=False).values().tolist() == list(range(2 * half))


def test_ties_go_to_the_even_integer() -> None:
    found = Int(4).nearest(torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]))
    assert found.tolist() == [-2, -2, 0, 0, 2, 2, 4]


def test_nearest_leaves_its_argument_alone() -> None:
    scaled = torch.tensor([0.4, 99.0])
    Int(4).nearest(scaled)
    Int(4).encode(scaled)
    assert scaled.tolist() == pytest.approx([0.4, 99.0])


@pytest.mark.parametrize("width", [0, 9, -1])
def test_other_widths_are_refused(width: int) -> None:
    with pytest.raises(ValueError, match="1 to 8 bits"):
        Int(width)
