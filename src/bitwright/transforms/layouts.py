"""Gives a weight that is read in several ways a copy for each: along its rows, along its columns, or row by row.

A scale belongs to an output channel. A constant whose output channels are rows to one operator (a Gemm) and columns to
another (a MatMul) has no axis for its scales; two constants have. An embedding that is the weight of the last product,
too, would stay float to serve both; its copies have codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Size, Tensor

from bitwright.graph.linear_node import linear_of, table_of
from bitwright.graph.network import Network, Node
from bitwright.transforms.transform import Edit, Rewrite, fresh


def one_layout_each(network: Network, constants: Mapping[str, Tensor]) -> Edit:
    """Copies of such weights, one for each further way in which they are read."""
    ways: dict[str, dict[Size | None, list[Node]]] = {}  # by weight, by the axis of its scales: None for a table
    for node in network.nodes:
        linear, table = linear_of(network, node), table_of(network, node)
        if linear is not None:
            ways.setdefault(linear.weight, {}).setdefault(linear.writes.shape, []).append(node)
        elif table is not None:
            ways.setdefault(table, {}).setdefault(None, []).append(node)
    steps: list[Rewrite] = []
    for weight, found in ways.items():
        for nodes in list(found.values())[1:]:
            name = fresh(network, f"{weight}.copy")
            copy = {name: constants[weight].clone()}
            for node in nodes:
                now = replace(node, inputs=tuple(name if one == weight else one for one in node.inputs))
                step = Rewrite((node,), (now,), added=copy)
                network, copy = step.network(network), {}
                steps.append(step)
    return Edit(tuple(steps))
