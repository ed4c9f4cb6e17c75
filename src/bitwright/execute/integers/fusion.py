"""Which operators of a QDQ file run on codes, and what they make: an operator with its quantizers is one.

An engine looks for a pattern: an operator whose inputs are dequantized, and behind it a quantizer that alone reads what
it makes. Between the two a clamp may stand that clamps nothing the codes can hold, such as a ReLU where the least code
stands for zero. Where the pattern does not hold the operator runs in float32 on dequantized numbers. Operators that
copy or choose among numbers are not here: on codes and on the numbers that they stand for they do the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from bitwright.execute.integers.codes import Quantizer
from bitwright.execute.integers.products import weight_axis
from bitwright.graph.network import Network, Node
from bitwright.numerics import Arithmetic, Scaling

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
FROM_SUMS = frozenset({"MatMul", "Gemm"})  # those that may hand out floats where sums are scaled to codes at once
BLENDS = frozenset({"Add", "Mul"})
MEANS = frozenset({"AveragePool", "GlobalAveragePool"})
SLACK = torch.finfo(torch.float32).eps  # how far a clamp may reach into what the codes can hold


@final
@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """An operator on codes. `quantizer`: None where it hands out floats. `made`: the value that it makes.

    `absorbed`: the nodes behind it that it takes the place of.
    """

    node: Node
    made: str
    quantizer: Quantizer | None
    absorbed: tuple[str, ...] = ()


def fusions(network: Network, constants: Mapping[str, Tensor], arithmetic: Arithmetic) -> dict[str, Fused]:
    """By name, the nodes that run on codes with this arithmetic."""
    patterns = _Patterns(network, constants, arithmetic)
    found = {node.name: patterns.fused(node) for node in network.nodes if not node.domain}
    return {name: fused for name, fused in found.items() if fused is not None}


class _Patterns:
    """What is around each node of a network."""

    def __init__(self, network: Network, constants: Mapping[str, Tensor], arithmetic: Arithmetic) -> None:
        self.network, self.constants, self.arithmetic = network, constants, arithmetic

    def fused(self, node: Node) -> Fused | None:
        """The node as an operator on codes, or None where it runs in float32."""
        if node.op in PRODUCTS:
            return self._product(node)
        if self.arithmetic.blends is Scaling.FLOAT or node.op not in BLENDS | MEANS:
            return None
        if node.op in MEANS and not _is_plain_pool(node):
            return None
        if not all(self._is_one_scale(name) for name in node.inputs):
            return None
        return self._with_output(node)

    def _product(self, node: Node) -> Fused | None:
        if not self._is_one_scale(node.inputs[0]) or not self._is_weight(node):
            return None
        if self.arithmetic.products is Scaling.FLOAT:
            return Fused(node, node.outputs[0], None)
        if node.op == "ConvTranspose" or not self._has_whole_bias(node):
            return None
        found = self._with_output(node)
        return Fused(node, node.outputs[0], None) if found is None and node.op in FROM_SUMS else found

    def _is_weight(self, node: Node) -> bool:
        """Whether the second operand is in codes with one scale, or one for each output channel."""
        dequantize, shape = self._dequantize(node.inputs[1]), self.network.values[node.inputs[1]].shape
        if dequantize is None or self._is_one_scale(node.inputs[1]):
            return dequantize is not None
        if shape is None or (node.op == "ConvTranspose" and node.attributes.get("group", 1) != 1):
            return False
        return int(dequantize.attributes.get("axis", 1)) % len(shape) == weight_axis(node, len(shape))

    def _has_whole_bias(self, node: Node) -> bool:
        if len(node.inputs) < 3 or not node.inputs[2]:
            return True
        dequantize = self._dequantize(node.inputs[2])
        is_whole = dequantize is not None and self.network.values[dequantize.inputs[0]].dtype == "int32"
        return is_whole and node.attributes.get("beta", 1.0) == 1.0

    def _dequantize(self, value: str) -> Node | None:
        """The node that makes this value of integers, unless by blocks; products of 8-bit floats run in float32."""
        node = self.network.producers.get(value)
        if node is None or node.op != DEQUANTIZE or node.attributes.get("block_size", 0):
            return None
        return node if self.network.values[node.inputs[0]].dtype.startswith(("int", "uint")) else None

    def _is_one_scale(self, value: str) -> bool:
        node = self._dequantize(value)
        if node is None:
            return False
        scale = self.constants.get(node.inputs[1])
        return scale is not None and scale.numel() == 1

    def _with_output(self, node: Node) -> Fused | None:
        """The node with the quantizer behind it; None where there is none, or something between."""
        value, absorbed, bounds = node.outputs[0], [], []
        while True:
            readers = self.network.readers(value)
            if len(readers) != 1 or value in self.network.outputs:
                return None
            reader = readers[0][0]
            absorbed.append(reader.name)
            if reader.op == QUANTIZE:
                break
            bound = self._bounds(reader)
            if bound is None:
                return None
            bounds.append(bound)
            value = reader.outputs[0]
        quantizer = self._quantizer(reader)
        kind = self.network.values[self.network.producers[node.inputs[0]].inputs[0]].dtype
        if quantizer is None or str(quantizer.dtype).removeprefix("torch.") != kind:
            return None
        step = float(quantizer.scale)
        lowest, highest = (step * (code - quantizer.zero) for code in (quantizer.low, quantizer.high))
        if any(low - lowest > SLACK or highest - high > SLACK for low, high in bounds):
            return None
        return Fused(node, reader.outputs[0], quantizer, tuple(absorbed))

    def _bounds(self, node: Node) -> tuple[float, float] | None:
        """Between what a node clamps; None for one that does something else."""
        if node.op == "Relu":
            return 0.0, float("inf")
        if node.op != "Clip":
            return None
        limits = [-float("inf"), float("inf")]
        for place, name in enumerate(node.inputs[1:3]):
            if name and name not in self.constants:
                return None
            limits[place] = float(self.constants[name]) if name else limits[place]
        return limits[0], limits[1]

    def _quantizer(self, node: Node) -> Quantizer | None:
        """The numbers of a QuantizeLinear with one scale; None where they are not constants."""
        scale = self.constants.get(node.inputs[1])
        zero = self.constants.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
        if scale is None or scale.numel() != 1 or zero is None:
            return None
        return Quantizer(scale.reshape(()).float(), int(zero), zero.dtype)


def _is_plain_pool(node: Node) -> bool:
    return not node.attributes.get("ceil_mode", 0) and set(node.attributes.get("dilations", (1,))) == {1}
