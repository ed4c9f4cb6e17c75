"""GELU in the order of factors in which engines know it, so that it becomes one operator.

x / 2 (1 + erf(x / sqrt 2)) may be multiplied in three orders, and exporters use all of them. ONNX Runtime joins two of
them into one Gelu, with the bias before it, but not x (1/2 (1 + erf)). Half of a number is exact, so that changing the
place of the 1/2 changes no bit, unless twice x overflows (beyond 1.7e38) or the product is below the normal numbers.
"""

from __future__ import annotations

from onnx import NodeProto

from bitwright.export.proto_graph import ProtoGraph, is_own


def order_gelu(graph: ProtoGraph) -> None:
    """Turn every x * (0.5 * (1 + erf(...))) into (x * (1 + erf(...))) * 0.5; the value in between gets a new name."""
    for node in [node for node in graph.graph.node if is_own(node, "Erf")]:
        found = _halved(graph, node)
        if found is None:
            continue
        inner, outer, curve, half = found
        x = _other(outer, inner.output[0])
        product = graph.fresh(f"{outer.output[0]}.twice")
        inner.input[:], inner.output[:] = [x, curve], [product]
        outer.input[:] = [product, half]


def _halved(graph: ProtoGraph, erf: NodeProto) -> tuple[NodeProto, NodeProto, str, str] | None:
    """The product of 1 + erf with 1/2, the product with that, and the names of 1 + erf and of 1/2."""
    plus = graph.only_reader(erf.output[0])
    if plus is None or not is_own(plus, "Add") or graph.number(_other(plus, erf.output[0])) != 1:
        return None
    curve = plus.output[0]
    inner = graph.only_reader(curve)
    if inner is None or not is_own(inner, "Mul") or graph.number(half := _other(inner, curve)) != 0.5:
        return None
    outer = graph.only_reader(inner.output[0])
    if outer is None or not is_own(outer, "Mul") or outer.input[0] == outer.input[1]:
        return None
    return inner, outer, curve, half


def _other(node: NodeProto, value: str) -> str:
    """The other of a node's two inputs."""
    return str(node.input[1] if node.input[0] == value else node.input[0])
