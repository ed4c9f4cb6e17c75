"""What of a network is quantized where its activations have no codes of their own: products with constant matrices.

Either what such a product reads is put into codes as the network runs (dynamic), or only its weight is in codes and it
computes in float. Nothing else changes, so no operator has to pass codes on to the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum

from bitwright.graph.linear_node import linear_of
from bitwright.graph.network import Network, Node
from bitwright.numerics import Spec
from bitwright.recipe.points import Placement, Point
from bitwright.recipe.roles import role_of
from bitwright.recipe.targets import APART, Role, Target

PRODUCTS = frozenset({"MatMul", "Gemm"})
GROUPS = (256, 128, 64, 32, 16)  # columns that can share a scale in ONNX's forms


class Activations(Enum):
    """How activations are quantized; the value is how recipes spell it."""

    STATIC = "static"  # ranges from calibration
    DYNAMIC = "dynamic"  # ranges of what is at hand, as the network runs
    FLOAT = "float"  # not at all


def place_products(
    network: Network, target: Target, dynamic: Spec | None, is_kept: Mapping[str, str] | None = None
) -> Placement:
    """The products with constant matrices, and what they read as dynamic points of this spec (None: no points); tables.

    `is_kept`: nodes that shall stay float, and why. A value has one point, which all its products share.
    """
    floats: dict[str, str] = {}
    readers: dict[str, list[str]] = {}
    apart: dict[str, Role] = {}
    for node in network.nodes:
        reason = (is_kept or {}).get(node.name) or _reason(network, node, target, dynamic)
        if reason:
            floats[node.name] = reason
        elif (role := role_of(network, node, target)[0]) in APART:
            apart[node.name] = role
        else:
            readers.setdefault(node.inputs[0], []).append(node.name)
    points: tuple[Point, ...] = ()
    if dynamic is not None:
        points = tuple(Point(value, dynamic, value, tuple(nodes), True) for value, nodes in readers.items())
    linear = {name: Role.LINEAR for nodes in readers.values() for name in nodes}
    return Placement(points, linear | apart, floats)


def columns_of(network: Network, node: Node) -> int:
    """How many inputs each output of a linear operator reads."""
    linear = linear_of(network, node)
    assert linear is not None
    shape = network.values[linear.weight].shape
    assert shape is not None
    return math.prod(size or 1 for size in shape) // linear.outputs


def group_for(columns: int, group: int) -> int | None:
    """The largest group of at most this many columns that divides a row; None if even the smallest does not."""
    return next((size for size in GROUPS if size <= group and columns % size == 0), None)


def ragged_rows(network: Network, group: int | None) -> dict[str, str]:
    """The products whose rows no group divides, and that reason to leave them in float."""
    if group is None:
        return {}
    found = {}
    for node in network.nodes:
        if node.op in PRODUCTS and linear_of(network, node) is not None:
            columns = columns_of(network, node)
            if group_for(columns, group) is None:
                found[node.name] = f"its rows have {columns} columns, which is no multiple of {GROUPS[-1]}"
    return found


def _reason(network: Network, node: Node, target: Target, dynamic: Spec | None) -> str:
    """Why a node stays float; "" if it does not."""
    role, reason = role_of(network, node, target)
    if role is Role.FLOAT:
        return reason
    is_recurrent = role is Role.RECURRENT and dynamic is not None
    if role is Role.TABLE or is_recurrent or (role is Role.LINEAR and node.op in PRODUCTS):
        return ""
    if role is Role.LINEAR and dynamic is not None:
        return f"{target.engine} runs a {node.op} whose activations are quantized as it runs slower than in float"
    form = (
        "only the weights of matrix products are quantized"
        if dynamic is None
        else ("activations are quantized for products with constant matrices only")
    )
    return form
