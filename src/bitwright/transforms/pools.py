"""A mean over all positions as the pool that it is: engines have integer kernels for GlobalAveragePool alone.

Exporters write the mean before a classifier as ReduceMean over the spatial axes. Left so, it would be the one float
operator at the end of a run of integers, and the residual sum before it would lose its reason to be in integers.
Means inside a norm that is written out are no such thing: they are taken off again or divide, in float throughout.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bitwright.graph.network import Network, Node, Value
from bitwright.transforms.transform import Edit, Rewrite, fresh


def means_as_pools(network: Network, constants: Mapping[str, Tensor]) -> Edit:
    """Turn every ReduceMean over exactly the axes behind the channels into GlobalAveragePool, and Flatten if needed."""
    edit = Edit()
    for node in list(network.nodes):
        if node.op != "ReduceMean" or node.domain or not _is_over_positions(network, node, constants):
            continue
        if _is_in_norm(network, node):
            continue
        made = node.outputs[0]
        if node.attributes.get("keepdims", 1):
            after = [Node(node.name, "GlobalAveragePool", node.inputs[:1], node.outputs)]
            values = {}
        else:
            pooled = fresh(network, f"{made}.pooled")
            shape = network.values[node.inputs[0]].shape
            assert shape is not None
            values = {pooled: Value(pooled, (*shape[:2], *[1] * (len(shape) - 2)), network.values[made].dtype)}
            after = [
                Node(node.name, "GlobalAveragePool", node.inputs[:1], (pooled,)),
                Node(f"{node.name}.flat", "Flatten", (pooled,), node.outputs, {"axis": 1}),
            ]
        step = Edit((Rewrite((node,), tuple(after), {}, {}, values),))
        network, edit = step.network(network), edit.then(step)
    return edit


def _is_in_norm(network: Network, node: Node) -> bool:
    """Whether it is the mean that is taken off again, or a mean of squares."""
    value, maker = node.inputs[0], network.producers.get(node.inputs[0])
    if maker is not None and (maker.op == "Pow" or (maker.op == "Mul" and len(set(maker.inputs)) == 1)):
        return True
    return any(reader.op == "Sub" and value in reader.inputs for reader, _ in network.readers(node.outputs[0]))


def _is_over_positions(network: Network, node: Node, constants: Mapping[str, Tensor]) -> bool:
    shape = network.values[node.inputs[0]].shape
    if shape is None or len(shape) < 3:
        return False
    axes = tuple(node.attributes.get("axes", ()))
    if len(node.inputs) > 1 and node.inputs[1]:
        if node.inputs[1] not in constants:
            return False
        axes = tuple(int(axis) for axis in constants[node.inputs[1]].reshape(-1))
    return {axis % len(shape) for axis in axes} == set(range(2, len(shape)))
