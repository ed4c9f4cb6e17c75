"""The window that slides over space in convolutions and pools: its size, stride, dilation and padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import final

from torch import Tensor

from bitwright.graph.network import Node


@final
@dataclass(frozen=True, slots=True)
class Window:
    """One number for each spatial axis; `begin` and `end` are the padding on both sides."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """How far the window reaches, gaps of the dilation included."""
        return tuple((size - 1) * gap + 1 for size, gap in zip(self.size, self.dilation, strict=True))


def window_of(node: Node, x: Tensor, size: Sequence[int]) -> Window:
    """A node's window over `x` [batch, channels, space ...]; `size` is that of the kernel."""
    rank = len(size)
    stride = tuple(node.attributes.get("strides", (1,) * rank))
    dilation = tuple(node.attributes.get("dilations", (1,) * rank))
    pads = tuple(node.attributes.get("pads", (0,) * (2 * rank)))
    window = Window(tuple(size), stride, dilation, pads[:rank], pads[rank:])
    mode = node.attributes.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max((-(-length // step) - 1) * step + reach - length, 0)
            for length, step, reach in zip(x.shape[2:], stride, window.extent, strict=True)
        ]
        less, more = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
        begin, end = (less, more) if mode == "SAME_UPPER" else (more, less)
        return Window(tuple(size), stride, dilation, begin, end)
    if mode == "VALID":
        return Window(tuple(size), stride, dilation, (0,) * rank, (0,) * rank)
    return window


def flat_pads(window: Window) -> list[int]:
    """The padding in the order of `torch.nn.functional.pad`: last axis first, both sides of each."""
    return [size for pair in reversed(list(zip(window.begin, window.end, strict=True))) for size in pair]


def places_of(window: Window, x: Tensor) -> Iterator[Tensor]:
    """What each place of the window reads, for all its positions, the last axis fastest.

    `x` [..., space ...] is padded already.
    """
    first = x.dim() - len(window.size)
    counts = [
        (length - reach) // step + 1
        for length, reach, step in zip(x.shape[first:], window.extent, window.stride, strict=True)
    ]
    for place in product(*(range(number) for number in window.size)):
        part = x
        for axis, (index, gap, step, count) in enumerate(
            zip(place, window.dilation, window.stride, counts, strict=True)
        ):
            part = part.narrow(first + axis, index * gap, (count - 1) * step + 1)
            part = part[(slice(None),) * (first + axis) + (slice(None, None, step),)]
        yield part
