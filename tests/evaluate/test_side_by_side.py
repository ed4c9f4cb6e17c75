"""One sample cut from a batch, whatever the network's inputs look like."""

from __future__ import annotations

import pytest
import torch

from bitwright.evaluate.side_by_side import first_sample

Axes = tuple[int | str | None, ...]


@pytest.mark.parametrize(
    ("inputs", "shapes", "expected"),
    [
        ({"x": ("n", 3)}, [(4, 3)], [(1, 3)]),
        ({"x": ("n", 3), "y": (2, "n", 5)}, [(4, 3), (2, 4, 5)], [(1, 3), (2, 1, 5)]),  # a state, batch second
        ({"x": ("n", "t"), "y": ("t", 2)}, [(4, 6), (6, 2)], [(1, 6), (6, 2)]),  # another free axis is left alone
        ({"rate": (), "x": ("n", 3)}, [(), (4, 3)], [(), (1, 3)]),
        ({"x": (None, None), "y": (None, 2)}, [(4, 6), (4, 2)], [(1, 6), (1, 2)]),
        ({"x": (4, 3)}, [(4, 3)], None),
        ({"x": ("n", 3)}, [(1, 3)], None),
        ({"rate": ()}, [()], None),
    ],
)
def test_the_first_sample_is_cut_along_the_batch_axis(
    inputs: dict[str, Axes], shapes: list[tuple[int, ...]], expected: list[tuple[int, ...]] | None
) -> None:
    feeds = {name: torch.randn(shape) for name, shape in zip(inputs, shapes, strict=True)}
    found = first_sample(feeds, inputs)
    assert (None if found is None else [tuple(one.shape) for one in found.values()]) == expected


def test_it_is_the_first_sample() -> None:
    x = torch.arange(12.0).reshape(4, 3)
    found = first_sample({"x": x}, {"x": ("n", 3)})
    assert found is not None and torch.equal(found["x"], x[:1])
