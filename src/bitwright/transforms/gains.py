"""Puts a product with ones in front of matrix products, where nothing else could take a scale for their channels.

After a norm whose output is also the residual stream, no scale can go into the norm's own gain: the stream would be
scaled with it. The matrix products that read the value get a gain of their own instead, one number per channel, that
the stream does not see. It costs one pass over the value, little beside the products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from bitwright.graph.linear_node import linear_of
from bitwright.graph.network import Network, Node, Value
from bitwright.transforms.transform import Edit, Rewrite, fresh

PRODUCTS = ("MatMul", "Gemm")


def with_gains(network: Network, constants: Mapping[str, Tensor]) -> Edit:
    """One gain of ones for every value that matrix products share with other readers."""
    edit = Edit()
    for value in list(network.values):
        products = _products(network, value)
        shape = network.values[value].shape if products else None
        is_shared = len(products) < len(network.readers(value)) or value in network.outputs
        if not products or not is_shared or shape is None or shape[-1] is None:
            continue
        step = _gained(network, constants, value, products)
        network, edit = step.network(network), edit.then(step)
    return edit


def _products(network: Network, value: str) -> list[Node]:
    """The matrix products with a constant weight that sum over the last axis of this activation."""
    if value in network.constants:
        return []
    found = []
    for node, place in network.readers(value):
        linear = linear_of(network, node) if place == 0 and node.op in PRODUCTS else None
        if linear is not None and linear.axis in (-1, len(network.values[value].shape or ()) - 1):
            found.append(node)
    return found


def _gained(network: Network, constants: Mapping[str, Tensor], value: str, products: list[Node]) -> Edit:
    known = network.values[value]
    assert known.shape is not None and known.shape[-1] is not None
    made, gain = fresh(network, f"{value}.gained"), fresh(network, f"{value}.gain")
    product = Node(made, "Mul", (value, gain), (made,))
    ones = torch.ones(known.shape[-1], dtype=constants[products[0].inputs[1]].dtype)
    first, *others = [(node, replace(node, inputs=(made, *node.inputs[1:]))) for node in products]
    steps = [Rewrite(first[:1], (product, first[1]), {}, {gain: ones}, {made: Value(made, known.shape, known.dtype)})]
    return Edit((*steps, *[Rewrite((before,), (after,)) for before, after in others]))
