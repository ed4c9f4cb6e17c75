"""A Pad with zeros goes into the windows that read it, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from bitwright.transforms import means_without_padding, pads_into_windows
from conformance.networks import Sketch, run

UNEVEN = (0, 0, 0, 1, 0, 0, 2, 1)  # one column before; two rows and one column behind


def padded(sketch: Sketch, *amounts: int, value: float | None = None, mode: str = "constant") -> str:
    x = sketch.input(2, 3, 6, 7)
    filled = [] if value is None else [sketch.number(value)]
    return sketch.add("Pad", x, sketch.integers(*amounts), *filled, mode=mode)


@pytest.mark.parametrize("value", [None, 0.0])
@pytest.mark.parametrize("own", [None, [0, 0, 0, 0], [1, 0, 1, 2]])
def test_a_convolution_pads_itself(value: float | None, own: list[int] | None) -> None:
    sketch = Sketch()
    pad = padded(sketch, *UNEVEN, value=value)
    more = {} if own is None else {"pads": own}
    network, constants = sketch.done(sketch.add("Conv", pad, sketch.weight(4, 3, 3, 3), strides=[2, 2], **more))
    after, numbers = pads_into_windows(network, constants).apply(network, constants)
    assert [node.op for node in after.nodes] == ["Conv"]
    feeds = {"q": torch.randn(2, 3, 6, 7, dtype=torch.float64)}
    torch.testing.assert_close(run(after, numbers, feeds), run(network, constants, feeds))


@pytest.mark.parametrize("counts", [0, 1])
def test_a_mean_counts_the_zeros(counts: int) -> None:
    sketch = Sketch()
    pad = padded(sketch, *UNEVEN)
    made = sketch.add("AveragePool", pad, kernel_shape=[3, 3], strides=[2, 2], count_include_pad=counts)
    network, constants = sketch.done(made)
    after, numbers = pads_into_windows(network, constants).apply(network, constants)
    assert [node.op for node in after.nodes] == ["AveragePool"]
    feeds = {"q": torch.randn(2, 3, 6, 7, dtype=torch.float64)}
    torch.testing.assert_close(run(after, numbers, feeds), run(network, constants, feeds))


def test_axes_may_be_named() -> None:
    sketch = Sketch()
    x = sketch.input(2, 3, 6, 7)
    pad = sketch.add("Pad", x, sketch.integers(2, 1), sketch.number(0.0), sketch.integers(-1))
    network, constants = sketch.done(sketch.add("Conv", pad, sketch.weight(4, 3, 3, 3)))
    after, numbers = pads_into_windows(network, constants).apply(network, constants)
    assert [node.attributes["pads"] for node in after.nodes] == [(0, 2, 0, 1)]
    feeds = {"q": torch.randn(2, 3, 6, 7, dtype=torch.float64)}
    torch.testing.assert_close(run(after, numbers, feeds), run(network, constants, feeds))


def test_another_reader_keeps_the_pad() -> None:
    sketch = Sketch()
    pad = padded(sketch, *UNEVEN)
    conv = sketch.add("Conv", pad, sketch.weight(4, 3, 3, 3))
    network, constants = sketch.done(conv, sketch.add("MaxPool", pad, kernel_shape=[2, 2]))
    after, numbers = pads_into_windows(network, constants).apply(network, constants)
    assert sorted(node.op for node in after.nodes) == ["Conv", "MaxPool", "Pad"]
    feeds = {"q": torch.randn(2, 3, 6, 7, dtype=torch.float64)}
    torch.testing.assert_close(run(after, numbers, feeds), run(network, constants, feeds))
    assert not after.readers(pad) or {node.op for node, _ in after.readers(pad)} == {"MaxPool"}


@pytest.mark.parametrize(
    ("amounts", "value", "mode"),
    [
        (UNEVEN, 1.0, "constant"),  # not zeros
        (UNEVEN, None, "reflect"),
        ((0, 1, 0, 0, 0, 0, 0, 0), None, "constant"),  # along the channels
        ((0, 0, -1, 0, 0, 0, 0, 0), None, "constant"),  # takes away
    ],
)
def test_other_pads_are_left(amounts: tuple[int, ...], value: float | None, mode: str) -> None:
    sketch = Sketch()
    pad = padded(sketch, *amounts, value=value, mode=mode)
    channels = 4 if amounts[1] else 3
    network, constants = sketch.done(sketch.add("Conv", pad, sketch.weight(4, channels, 3, 3)))
    assert pads_into_windows(network, constants).steps == ()


@pytest.mark.parametrize(
    ("op", "more"),
    [
        ("MaxPool", {"kernel_shape": [2, 2]}),
        ("AveragePool", {"kernel_shape": [3, 3], "ceil_mode": 1}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),  # counts no padding of its own
    ],
)
def test_other_readers_are_left(op: str, more: dict[str, object]) -> None:
    sketch = Sketch()
    network, constants = sketch.done(sketch.add(op, padded(sketch, *UNEVEN), **more))
    assert pads_into_windows(network, constants).steps == ()


def test_a_window_that_finds_its_own_padding_is_left() -> None:
    sketch = Sketch()
    pad = padded(sketch, *UNEVEN)
    network, constants = sketch.done(sketch.add("Conv", pad, sketch.weight(4, 3, 3, 3), auto_pad="SAME_UPPER"))
    assert pads_into_windows(network, constants).steps == ()


@pytest.mark.parametrize(("pads", "changed"), [([0, 0, 0, 0], True), ([1, 1, 1, 1], False)])
def test_means_that_pad_nothing_count_no_padding(pads: list[int], changed: bool) -> None:
    sketch = Sketch()
    x = sketch.input(2, 3, 6, 7)
    made = sketch.add("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=pads, count_include_pad=1)
    network, constants = sketch.done(made)
    after = means_without_padding(network).network(network)
    feeds = {"q": torch.randn(2, 3, 6, 7, dtype=torch.float64)}
    torch.testing.assert_close(run(after, constants, feeds), run(network, constants, feeds))
    assert (after.nodes[0].attributes["count_include_pad"] == 0) is changed
