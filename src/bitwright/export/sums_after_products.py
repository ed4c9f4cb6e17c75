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
    """Turn every Add that alone reads a product of two dequantized operands, the second a matrix, into Sum."""
    for node in graph.graph.node:
        if is_own(node, "MatMul") and _runs_in_integers(graph, node):
            reader = graph.only_reader(node.output[0])
            if reader is not None and is_own(reader, "Add"):
                reader.op_type = "Sum"


def _runs_in_integers(graph: ProtoGraph, product: NodeProto) -> bool:
    """Whether both operands come out of codes, and the second may be a matrix, as a Gemm's is.

    Where only the weight does, the engine has a product of its own for floats with such weights, which takes the bias.
    """
    is_quantized = all(graph.made_by(operand, "DequantizeLinear") is not None for operand in product.input)
    return is_quantized and graph.rank(product.input[1]) in (2, None)
