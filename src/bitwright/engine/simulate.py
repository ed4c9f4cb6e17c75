"""A quantized network run as it is stored, in float: weights and values pass through their codes node by node.

It serves where no engine can run the network in integers, such as with activations of 4 bits. Biases are as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor

from bitwright.engine.judge import through
from bitwright.execute.node_walk import Change, NodeWalk
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.store.quantized import QuantizedNetwork, StoredPoint


@final
class Simulation:
    """The network to run on batches."""

    def __init__(self, plain: OnnxRunner, points: Mapping[str, StoredPoint], changes: Mapping[str, Change]) -> None:
        """`plain`: the float network; `changes`: by node, what it runs with once its weights are rounded."""
        self._plain, self._changes = plain, changes
        self.network = plain.network
        self._points = {name: (through(point), point.readers) for name, point in points.items()}

    @staticmethod
    def of(quantized: QuantizedNetwork, threads: int = 1) -> Simulation:
        """An artifact as it is stored."""
        weights: dict[str, dict[str, Tensor]] = {}
        for weight in quantized.weights.values():
            for node in weight.nodes:
                weights.setdefault(node, {})[weight.name] = weight.dequantize()
        changes = {node: Change(held) for node, held in weights.items()}
        return Simulation(OnnxRunner(quantized.source, threads=threads), quantized.points, changes)

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of a batch, by name."""
        walk = NodeWalk(self._plain, [feeds], self._points)
        for node in self.network.nodes:
            walk.advance(node, self._changes.get(node.name, Change()))
        return {name: walk.live[0][name] for name in self.network.outputs}
