"""Keeps a sum and the layer normalization behind it apart, because ONNX Runtime is faster with the two.

ONNX Runtime joins an Add and the LayerNormalization that reads it into one operator, whose kernel takes several times
as long as the two together (7 times on 128 x 384 values with AVX-512, ONNX Runtime 1.32). A Sum of two values is the
same addition, bit for bit and with the same broadcast, and is not joined.
"""

from __future__ import annotations

from bitwright.export.proto_graph import ProtoGraph, is_own


def separate_sums(graph: ProtoGraph) -> None:
    """Turn every Add of float values that a layer normalization reads, written whole or in parts, into Sum."""
    for node in graph.graph.node:
        if is_own(node, "Add") and is_normalized(graph, node.output[0]):
            node.op_type = "Sum"


def is_normalized(graph: ProtoGraph, value: str) -> bool:
    """Whether a layer normalization reads a value: as one operator, or as its mean and the difference from that."""
    readers = graph.readers(value)
    if any(is_own(node, "LayerNormalization") and node.input[0] == value for node in readers):
        return True
    means = {node.output[0] for node in readers if is_own(node, "ReduceMean") and node.input[0] == value}
    return any(is_own(node, "Sub") and node.input[0] == value and node.input[1] in means for node in readers)
