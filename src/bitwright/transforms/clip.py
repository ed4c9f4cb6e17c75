"""Takes a Clip apart so that each channel can have its own bound, and puts it together again where that was not needed.

ReLU6 is a Clip to [0, 6] and the standard's Clip has one bound for the whole tensor, so a scale per channel cannot
pass it. Relu followed by Min with a constant of one number per channel says the same and lets the scale through: the
bound of channel i becomes 6 / s_i. The network stays what it was, but integer engines have no Min with a vector; where
the quantized range ends below the bounds the Min does nothing and may be left out (`without_bounds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from bitwright.graph.network import Network, Node, Value
from bitwright.transforms.transform import Edit, Rewrite, fresh


def open_clips(network: Network, constants: Mapping[str, Tensor]) -> Edit:
    """Turn every Clip with constant bounds around zero into Relu (or Max) and Min with one number per channel."""
    steps = []
    for node in network.nodes:
        bounds = clip_bounds(node, constants) if node.op == "Clip" else None
        known = network.values.get(node.outputs[0])
        if bounds is None or known is None or known.shape is None or len(known.shape) < 2:
            continue
        low, high = bounds
        axis = 1 if len(known.shape) > 2 else -1
        size = known.shape[axis]
        if size is None or not low <= 0 < high or (low in (0.0, -inf) and high == inf):
            continue
        shape = [size if i == axis % len(known.shape) else 1 for i in range(len(known.shape))][1:]
        steps.append(_opened(network, node, known, {"low": torch.full(shape, low), "high": torch.full(shape, high)}))
    return Edit(tuple(steps))


def close_clips(network: Network, constants: Mapping[str, Tensor]) -> Edit:
    """Turn Relu and Min whose bounds are still equal for all channels back into one Clip."""
    steps = []
    for node in network.nodes:
        found = _bounded(network, node)
        if found is None:
            continue
        relu, name = found
        bound = constants[name].reshape(-1)
        if not bool((bound == bound[0]).all()):
            continue
        low, high = fresh(network, f"{node.outputs[0]}.min"), fresh(network, f"{node.outputs[0]}.max")
        clip = Node(relu.name, "Clip", (relu.inputs[0], low, high), node.outputs)
        added = {low: torch.zeros((), dtype=bound.dtype), high: bound[0].clone()}
        steps.append(Rewrite((relu, node), (clip,), {name: constants[name]}, added))
    return Edit(tuple(steps))


def without_bounds(network: Network, constants: Mapping[str, Tensor], highs: Mapping[str, float]) -> Edit:
    """Leave out each Min behind a Relu that nothing can tell is there.

    `highs`: by the value that Min makes, the number above which the value is clamped anyway (the end of its quantized
    range). A Min goes if no channel is bounded below that number.
    """
    steps = []
    for node in network.nodes:
        found = _bounded(network, node)
        if found is None or node.outputs[0] not in highs:
            continue
        relu, name = found
        if float(constants[name].min()) >= highs[node.outputs[0]]:
            after = replace(relu, outputs=node.outputs)
            steps.append(Rewrite((relu, node), (after,), {name: constants[name]}))
    return Edit(tuple(steps))


def clip_bounds(node: Node, constants: Mapping[str, Tensor]) -> tuple[float, float] | None:
    """The bounds of a Clip; None if they are known only when the network runs."""
    found = []
    for place, name, free in ((1, "min", -inf), (2, "max", inf)):
        given = node.inputs[place] if len(node.inputs) > place else ""
        if given and (given not in constants or constants[given].numel() != 1):
            return None
        found.append(float(constants[given]) if given else float(node.attributes.get(name, free)))
    return found[0], found[1]


def _opened(network: Network, node: Node, known: Value, bounds: Mapping[str, Tensor]) -> Rewrite:
    made = node.outputs[0]
    rest, added, nodes = fresh(network, f"{made}.low"), {}, []
    dtype = torch.float16 if known.dtype == "float16" else torch.float64 if known.dtype == "float64" else torch.float32
    high = fresh(network, f"{made}.bound")
    if bool((bounds["low"] == 0).all()):
        nodes.append(Node(f"{node.name}.low", "Relu", node.inputs[:1], (rest,)))
    elif bool(torch.isfinite(bounds["low"]).all()):
        low = fresh(network, f"{made}.floor")
        added[low] = bounds["low"].to(dtype)
        nodes.append(Node(f"{node.name}.low", "Max", (node.inputs[0], low), (rest,)))
    if bool(torch.isfinite(bounds["high"]).all()):
        added[high] = bounds["high"].to(dtype)
        nodes.append(
            Node(f"{node.name}.high", "Min", (nodes[-1].outputs[0] if nodes else node.inputs[0], high), (made,))
        )
    else:
        nodes[-1] = replace(nodes[-1], outputs=(made,))
    return Rewrite((node,), tuple(nodes), {}, added, {rest: Value(rest, known.shape, known.dtype)})


def _bounded(network: Network, node: Node) -> tuple[Node, str] | None:
    """The Relu before a Min with a constant, and that constant, where both belong together alone."""
    if node.op != "Min" or len(node.inputs) != 2:
        return None
    names = [name for name in node.inputs if name in network.constants]
    values = [name for name in node.inputs if name in network.producers]
    if len(names) != 1 or len(values) != 1 or len(network.readers(names[0])) > 1:
        return None
    relu = network.producers[values[0]]
    if relu.op != "Relu" or len(network.readers(values[0])) > 1 or values[0] in network.outputs:
        return None
    return relu, names[0]
