"""A linear operator of a network with a constant weight, seen as one thing: which channel each of its numbers is for.

Convolutions (grouped, depthwise, transposed) and matrix products store their weights in five layouts. Two index
tensors, which broadcast to the weight, say for every number which input channel it reads and which output channel it
writes; everything that works on channels works on those, and no layout needs to be known twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bitwright.graph.network import Network, Node


@final
@dataclass(frozen=True, slots=True, eq=False)
class LinearNode:
    """One node with a constant weight. `reads` and `writes` broadcast to the weight's shape.

    `bias`: the third input of the node if it has one, of whatever shape. `axis`: where the channels lie in what it
    reads and writes (1, or -1 for the last). `gain`: what the node multiplies its product with (Gemm's alpha).
    """

    node: Node
    weight: str
    bias: str | None
    reads: Int64[Tensor, "..."]
    writes: Int64[Tensor, "..."]
    inputs: int
    outputs: int
    axis: int
    gain: float = 1.0

    @property
    def output(self) -> str:
        """The name of the value that it makes."""
        return self.node.outputs[0]

    def summed(self, products: Float[Tensor, "..."]) -> Float[Tensor, "outputs"]:
        """Numbers of the weight's shape summed onto the output channel that each writes, times the gain; float64."""
        total = torch.zeros(self.outputs, dtype=torch.float64)
        total.index_add_(0, self.writes.expand(products.shape).reshape(-1), products.double().reshape(-1))
        return total * self.gain

    def respond(self, weight: Float[Tensor, "..."], constant: Float[Tensor, "inputs"]) -> Float[Tensor, "outputs"]:
        """What it makes, far from any border, of an input that holds this number in each channel; float64, no bias."""
        return self.summed(weight.double() * constant.double()[self.reads])


def linear_of(network: Network, node: Node) -> LinearNode | None:
    """The node as a linear operator; None if it is none, or its weight is not a constant of known shape."""
    if node.domain not in ("", "ai.onnx") or len(node.inputs) < 2 or node.inputs[1] not in network.constants:
        return None
    known = network.values[node.inputs[1]].shape
    if known is None or None in known:
        return None
    shape = tuple(size for size in known if size is not None)
    match node.op:
        case "Conv" if len(shape) > 2:
            return _conv(node, shape)
        case "ConvTranspose" if len(shape) > 2:
            return _transposed(node, shape)
        case "Gemm" if not node.attributes.get("transA", 0) and len(shape) == 2:
            return _gemm(node, shape)
        case "MatMul" if len(shape) == 2:
            return _matrix(node, shape, False)
    return None


def _bias(node: Node) -> str | None:
    return node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] else None


def _grouped(outer: int, inner: int, groups: int, rank: int) -> Int64[Tensor, "..."]:
    """For a weight [outer, inner, ...]: the inner channel of each number, counted across groups."""
    within = torch.arange(inner).reshape(1, inner, *[1] * (rank - 2))
    group = torch.arange(outer) // (outer // groups)
    return within if groups == 1 else within + (group * inner).reshape(outer, 1, *[1] * (rank - 2))


def _outer(size: int, rank: int) -> Int64[Tensor, "..."]:
    return torch.arange(size).reshape(size, *[1] * (rank - 1))


def _conv(node: Node, shape: tuple[int, ...]) -> LinearNode:
    groups, rank = int(node.attributes.get("group", 1)), len(shape)
    reads = _grouped(shape[0], shape[1], groups, rank)
    return LinearNode(node, node.inputs[1], _bias(node), reads, _outer(shape[0], rank), shape[1] * groups, shape[0], 1)


def _transposed(node: Node, shape: tuple[int, ...]) -> LinearNode:
    groups, rank = int(node.attributes.get("group", 1)), len(shape)
    writes = _grouped(shape[0], shape[1], groups, rank)
    return LinearNode(node, node.inputs[1], _bias(node), _outer(shape[0], rank), writes, shape[0], shape[1] * groups, 1)


def _gemm(node: Node, shape: tuple[int, ...]) -> LinearNode:
    return _matrix(node, shape, bool(node.attributes.get("transB", 0)))


def _matrix(node: Node, shape: tuple[int, ...], is_transposed: bool) -> LinearNode:
    """A matrix [in, out], or [out, in] if transposed."""
    first, second = torch.arange(shape[0])[:, None], torch.arange(shape[1])[None, :]
    gain = float(node.attributes.get("alpha", 1.0))
    if is_transposed:
        return LinearNode(node, node.inputs[1], _bias(node), second, first, shape[1], shape[0], -1, gain)
    return LinearNode(node, node.inputs[1], _bias(node), first, second, shape[0], shape[1], -1, gain)


def table_of(network: Network, node: Node) -> str | None:
    """The constant matrix whose rows the node picks by numbers that the network computes; None if it does not."""
    if node.op != "Gather" or node.attributes.get("axis", 0) not in (0, -2):
        return None
    name, picked = node.inputs[:2]
    shape = network.values[name].shape if name in network.constants else None
    is_matrix = shape is not None and len(shape) == 2 and None not in shape
    return name if is_matrix and picked not in network.constants else None
