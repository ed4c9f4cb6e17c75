"""Keeps a product of dequantized numbers and the sum behind it apart, because ONNX Runtime joins them too early.

It joins MatMul and Add into one Gemm before it looks for quantizers, wherever it knows the sizes: always for matrices,
with more axes in files of fixed batch and length. A Gemm runs in integers only if its bias is in codes, too, so these
products run in float: a sentence encoder of fixed length then takes 1.4 times as long as in float32 instead of 0.4.
A Sum of two values is the same addition, bit for bit and with the same broadcast, and is not joined.
"""

from __future__ import annotations

from onnx import NodeProto

from bitwright.export.proto_graph import ProtoGraph, is_own


def separate_biases(graph: ProtoGraph) -> None:
    """Turn every Add that alone reads a product with a dequantized matrix into Sum."""
    for node in graph.graph.node:
        if is_own(node, "MatMul") and _reads_dequantized_matrix(graph, node):
            reader = graph.only_reader(node.output[0])
            if reader is not None and is_own(reader, "Add"):
                reader.op_type = "Sum"


def _reads_dequantized_matrix(graph: ProtoGraph, product: NodeProto) -> bool:
    """Whether the second operand comes out of codes and may be a matrix: with more axes it is no operand of a Gemm."""
    second = product.input[1]
    return graph.made_by(second, "DequantizeLinear") is not None and graph.rank(second) in (2, None)
