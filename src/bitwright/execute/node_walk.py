"""Runs a network node by node over all batches at once, so that what comes later can follow from what came before.

Weights are rounded in running order, each against the inputs that it will really see. So every batch stands at the same
node: its live values are kept, the node runs on all of them with the constants that are known by then, and values that
nothing needs any more are forgotten. Values that pass through codes do so as soon as they are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.network import Node

Quantize = Callable[[str, Tensor], Tensor]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What a node runs with in the place of its own constants, and what is added to what it makes."""

    constants: Mapping[str, Tensor] = field(default_factory=dict)
    offset: Tensor | None = None


@final
class NodeWalk:
    """All batches at the same place of a network, at first before its first node.

    `points`: what a value is after passing through codes, and by which nodes it is read so (None: by all).
    `place`: the node to begin with, by its number; the batches then hold what is live before it.
    """

    def __init__(
        self,
        runner: OnnxRunner,
        batches: Sequence[Mapping[str, Tensor]],
        points: Mapping[str, tuple[Quantize, tuple[str, ...] | None]],
        place: int = 0,
    ) -> None:
        self.runner, self.points = runner, points
        network = runner.network
        self.live = [dict(batch) for batch in batches]
        self._last = {name: place for place, node in enumerate(network.nodes) for name in _reads(node)}
        self._last |= {name: len(network.nodes) for name in network.outputs}
        self._place = place

    def inputs(self, node: Node) -> Iterator[dict[str, Tensor]]:
        """What the node reads, batch by batch: constants left out, values in codes where it reads them so."""
        for live in self.live:
            yield self._feeds(live, node)

    def _feeds(self, live: Mapping[str, Tensor], node: Node) -> dict[str, Tensor]:
        return {name: self._value(name, live[name], node) for name in dict.fromkeys(_reads(node)) if name in live}

    def _value(self, name: str, value: Tensor, node: Node) -> Tensor:
        if name not in self.points:
            return value
        quantize, readers = self.points[name]
        is_read_so = readers is not None and node.name in readers  # those that all read so are in codes already
        return quantize(name, value) if is_read_so else value

    def advance(self, node: Node, change: Change = Change()) -> None:
        """Run the next node, changed so."""
        self._run([node], {node.name: change}, self.live)
        self._place += 1

    def advance_apart(self, nodes: Sequence[Node], changes: Mapping[str, Change]) -> None:
        """Run the next nodes, changed so by their names, on one batch after the other.

        What they make in between is then held of one batch alone, but every node is opened for each.
        """
        for live in self.live:
            self._run(nodes, changes, [live])
        self._place += len(nodes)

    def _run(self, nodes: Sequence[Node], changes: Mapping[str, Change], lives: Sequence[dict[str, Tensor]]) -> None:
        for place, node in enumerate(nodes, self._place):
            assert self.runner.network.nodes[place] is node
            change = changes.get(node.name, Change())
            runner = self.runner.with_constants(change.constants) if change.constants else self.runner
            wanted = tuple(name for name in node.outputs if name)
            for live in lives:
                for name, value in runner.run(self._feeds(live, node), wanted).items():
                    made = value if change.offset is None else value + change.offset
                    quantize, readers = self.points.get(name, (None, ()))
                    live[name] = quantize(name, made) if quantize is not None and readers is None else made
                for name in [name for name in live if self._last.get(name, -1) <= place]:
                    del live[name]


def _reads(node: Node) -> Iterator[str]:
    yield from filter(None, node.inputs)
    yield from node.captures
