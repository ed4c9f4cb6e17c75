"""Gives a weight that is read both ways (by a Gemm along its rows, by a MatMul along its columns) a copy for each way.

A scale belongs to an output channel. A constant whose output channels are rows to one operator and columns to another
has no axis for its scales; two constants have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Size, Tensor

from bitwright.graph.linear_node import linear_of
from bitwright.graph.network import Network, Node
from bitwright.transforms.transform import Edit, Rewrite, fresh


def one_layout_each(network: Network, constants: Mapping[str, Tensor]) -> Edit:
    """Copies of such weights, one for each further way in which they are read."""
    ways: dict[str, dict[Size, list[Node]]] = {}
    for node in network.nodes:
        linear = linear_of(network, node)
        if linear is not None:
            ways.setdefault(linear.weight, {}).setdefault(linear.writes.shape, []).append(node)
    steps: list[Rewrite] = []
    for weight, found in ways.items():
        for nodes in list(found.values())[1:]:
            name = fresh(network, f"{weight}.copy")
            copy = {name: constants[weight].clone()}
            for node in nodes:
                now = replace(node, inputs=(node.inputs[0], name, *node.inputs[2:]))
                step = Rewrite((node,), (now,), added=copy)
                network, copy = step.network(network), {}
                steps.append(step)
    return Edit(tuple(steps))
