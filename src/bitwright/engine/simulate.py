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
from bitwright.store.quantized import QuantizedNetwork


@final
class Simulation:
    """The network to run on batches."""

    def __init__(self, quantized: QuantizedNetwork, threads: int = 1) -> None:
        self._plain = OnnxRunner(quantized.source, threads=threads)
        self.network = self._plain.network
        self._points = {name: (through(point), point.readers) for name, point in quantized.points.items()}
        self._weights: dict[str, dict[str, Tensor]] = {}
        for weight in quantized.weights.values():
            for node in weight.nodes:
                self._weights.setdefault(node, {})[weight.name] = weight.dequantize()

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of a batch, by name."""
        walk = NodeWalk(self._plain, [feeds], self._points)
        for node in self.network.nodes:
            walk.advance(node, Change(self._weights.get(node.name, {})))
        return {name: walk.live[0][name] for name in self.network.outputs}
