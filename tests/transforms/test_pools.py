"""A mean over positions becomes a pool that computes the same."""

from __future__ import annotations

import pytest
import torch

from bitwright.transforms import means_as_pools
from conformance.networks import Sketch, run


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [(2, 3), (-1, -2)])
def test_a_mean_over_positions_becomes_a_pool_of_the_same_value(keepdims: int, axes: tuple[int, ...]) -> None:
    sketch = Sketch()
    x = sketch.input(2, 3, 4, 5)
    network, constants = sketch.done(sketch.add("ReduceMean", x, sketch.integers(*axes), keepdims=keepdims))
    edit = means_as_pools(network, constants)
    after, numbers = edit.apply(network, constants)
    assert [node.op for node in after.nodes] == ["GlobalAveragePool", "Flatten"][: 2 - keepdims]
    feeds = {x: torch.randn(2, 3, 4, 5, dtype=torch.float64)}
    wanted, found = run(network, constants, feeds), run(after, numbers, feeds)
    torch.testing.assert_close(found, wanted)


def test_a_mean_over_channels_or_some_positions_is_left() -> None:
    sketch = Sketch()
    x = sketch.input(2, 3, 4, 5)
    some = sketch.add("ReduceMean", x, sketch.integers(3))
    network, constants = sketch.done(some, sketch.add("ReduceMean", x, sketch.integers(1, 2, 3)))
    assert means_as_pools(network, constants).steps == ()


@pytest.mark.parametrize("squares", ["Mul", "Pow"])
def test_the_means_of_a_norm_that_is_written_out_are_left(squares: str) -> None:
    sketch = Sketch()
    x = sketch.input(2, 3, 4, 5)
    centred = sketch.add("Sub", x, sketch.add("ReduceMean", x, sketch.integers(2, 3)))
    square = sketch.add(squares, centred, sketch.number(2.0) if squares == "Pow" else centred)
    size = sketch.add("Sqrt", sketch.add("ReduceMean", square, sketch.integers(2, 3)))
    network, constants = sketch.done(sketch.add("Div", centred, size))
    assert means_as_pools(network, constants).steps == ()
