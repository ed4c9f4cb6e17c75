"""Cuts a network into segments: runs of nodes with little going in and out, such as the residual blocks of a CNN.

Between any two nodes some values are *live*: made before and still to be read. Inside a block with a shortcut more are
live than at its ends, so the places where fewest are live are where a network falls apart by itself. A stretch with
more weights than wanted is cut at all such places, each part again, and small neighbours are joined.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import final

from bitwright.graph.network import Network, Node

JOINED = 3  # weights in neighbours that are joined, at most


@final
@dataclass(frozen=True, slots=True)
class Segment:
    """Nodes in running order, the values that they read from before, and those that are read after them."""

    nodes: tuple[Node, ...]
    reads: tuple[str, ...]
    makes: tuple[str, ...]


def segments(network: Network, weighted: Collection[str], most: int = 6) -> tuple[Segment, ...]:
    """All nodes in segments with at most `most` of the nodes named in `weighted`, as far as there are places to cut.

    `most` 1 makes one of every weighted node and what follows it up to the next. All but one segment hold a weighted
    node, if any does.
    """
    if not network.nodes:
        return ()
    cutter = _Cutter(network, frozenset(weighted), most)
    ends = cutter.joined(list(cutter.split(0, len(network.nodes))))
    return tuple(_segment(network, start, stop) for start, stop in ends)


class _Cutter:
    def __init__(self, network: Network, weighted: frozenset[str], most: int) -> None:
        self.most = most
        self.live = _live(network)
        self.before = [0]  # weighted nodes before each place
        for node in network.nodes:
            self.before.append(self.before[-1] + (node.name in weighted))

    def weights(self, start: int, stop: int) -> int:
        return self.before[stop] - self.before[start]

    def split(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Parts of [start, stop) that are not to be cut further, in order."""
        inner = range(start + 1, stop)
        least = min((self.live[place] for place in inner), default=0)
        narrow = max(self.live[start], self.live[stop])
        few = self.weights(start, stop) <= self.most
        if not inner or self.weights(start, stop) <= 1 or (few and least > narrow):
            yield start, stop
            return
        ends = [start, *(place for place in inner if self.live[place] == least), stop]
        for first, last in pairwise(ends):
            yield from self.split(first, last)

    def joined(self, parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Neighbours made one where that keeps weights few; parts without weights go to the one before."""
        found: list[tuple[int, int]] = []
        most = min(JOINED, self.most)
        for start, stop in parts:
            if found:
                first = found[-1][0]
                together = self.weights(first, stop)
                if not self.weights(start, stop) or not self.weights(*found[-1]) or together <= most:
                    found[-1] = (first, stop)
                    continue
            found.append((start, stop))
        return found


def _live(network: Network) -> list[int]:
    """How many values are live before each node, and behind the last; constants do not count."""
    nodes = network.nodes
    born = dict.fromkeys(network.inputs, 0)
    dies: dict[str, int] = {}
    for place, node in enumerate(nodes):
        born |= {name: place + 1 for name in node.outputs if name}
        dies |= dict.fromkeys((*node.inputs, *node.captures), place)
    dies |= dict.fromkeys(network.outputs, len(nodes))
    change = [0] * (len(nodes) + 2)
    for name, start in born.items():
        if dies.get(name, -1) >= start:
            change[start] += 1
            change[dies[name] + 1] -= 1
    live, count = [], 0
    for step in change[:-1]:
        count += step
        live.append(count)
    return live


def _segment(network: Network, start: int, stop: int) -> Segment:
    nodes = network.nodes[start:stop]
    made = {name for node in nodes for name in node.outputs if name}
    read = dict.fromkeys(name for node in nodes for name in (*node.inputs, *node.captures) if name)
    later = {name for node in network.nodes[stop:] for name in (*node.inputs, *node.captures)} | {*network.outputs}
    reads = tuple(name for name in read if name not in made and name not in network.constants)
    return Segment(nodes, reads, tuple(name for node in nodes for name in node.outputs if name and name in later))
