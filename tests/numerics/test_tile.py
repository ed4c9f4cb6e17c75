"""Tiles against loops over rows and columns."""

from __future__ import annotations

import pytest
import torch

from bitwright.numerics import PER_ROW, PER_TENSOR, Tile, per_block, per_group

TILES = [PER_TENSOR, PER_ROW, per_group(4), per_block(2, 3), Tile(None, 2), Tile(3, None)]


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_split_and_spread_agree_with_a_loop(tile: Tile) -> None:
    matrix = torch.arange(6 * 12.0).reshape(6, 12)
    height, width = tile.rows or 6, tile.cols or 12
    parts = tile.split(matrix)
    assert parts.shape[:2] == tile.count((6, 12)) == (6 // height, 12 // width)
    spread = tile.spread(parts.sum(-1), (6, 12))
    for i in range(6):
        for j in range(12):
            a, b = i // height, j // width
            patch = matrix[a * height : (a + 1) * height, b * width : (b + 1) * width]
            assert parts[a, b].tolist() == patch.flatten().tolist()
            assert spread[i, j] == patch.sum()


@pytest.mark.parametrize(
    ("tile", "remedy"),
    [(per_group(128), r"128 columns does not divide 96; choose a divisor \(32, 16, 8\)"), (Tile(5, None), "5 rows")],
)
def test_a_tile_that_does_not_divide_names_those_that_do(tile: Tile, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        tile.count((64, 96))


def test_a_tile_larger_than_the_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide 64"):
        per_group(128).split(torch.zeros(2, 64))


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (-2, None)])
def test_empty_tiles_are_refused(sizes: tuple[int, int | None]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Tile(*sizes)


def test_tiles_read_as_words() -> None:
    words = [
        "per tensor",
        "per row",
        "per group of 4",
        "per block of 2 x 3",
        "per block of all x 2",
        "per block of 3 x all",
    ]
    assert [str(tile) for tile in TILES] == words
