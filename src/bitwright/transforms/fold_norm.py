"""Folds a BatchNormalization into the linear operator before it, and keeps its statistics.

At inference BatchNormalization is a line per channel, y = f x + o with f = gamma / sqrt(variance + epsilon) and
o = beta - f mean. The operator before it is linear, so its output channel takes f into the weight and f, o into the
bias, and the node goes. Integer inference needs this: a requantization has no second line to apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from bitwright.graph.linear_node import LinearNode, linear_of
from bitwright.graph.network import Network, Node
from bitwright.transforms.biases import bias_reader, own_bias
from bitwright.transforms.moments import Moments
from bitwright.transforms.transform import Affine, Edit, Rewrite, times


@final
@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """What folding comes to. `moments`: by the value that each folded normalization made, which keeps its name.

    `left`: normalizations that stay, by the value they make, each with the reason.
    """

    edit: Edit
    moments: Mapping[str, Moments]
    left: Mapping[str, str]


class _Stays(Exception):
    """Why a normalization cannot be folded. Internal: becomes an entry of `left`."""


def fold_norms(network: Network, constants: Mapping[str, Tensor]) -> Folded:
    """Fold every BatchNormalization that directly follows a linear operator with weights of its own."""
    edit = Edit()
    moments: dict[str, Moments] = {}
    left: dict[str, str] = {}
    for node in network.nodes:
        if node.op != "BatchNormalization":
            continue
        try:
            linear = _linear_before(network, node)
            step = _fold(network, constants, linear, node)
        except _Stays as reason:
            left[node.outputs[0]] = str(reason)
            continue
        gamma, beta = (constants[name].double() for name in node.inputs[1:3])
        moments[node.outputs[0]] = Moments(beta, gamma.abs())
        network, constants = step.apply(network, constants)
        edit = edit.then(step)
    return Folded(edit, moments, left)


def _linear_before(network: Network, norm: Node) -> LinearNode:
    """The linear operator whose channels this normalization scales, and nothing else sees before."""
    if norm.attributes.get("training_mode", 0) or any(norm.outputs[1:]):
        raise _Stays("it computes its statistics anew from each batch")
    if not all(name in network.constants for name in norm.inputs[1:]):
        raise _Stays("its statistics are no constants")
    value = norm.inputs[0]
    node = _maker(network, value)
    found = linear_of(network, node)
    if found is None and node.op == "Add":
        product = [name for name in node.inputs if name in network.producers]
        found = linear_of(network, network.producers[product[0]]) if len(product) == 1 else None
        found = found if found and (behind := bias_reader(network, found)) and behind[0] == node else None
    if found is None:
        raise _Stays(f"it follows {node.op}, which is no linear operator with a constant weight")
    shape = network.values[value].shape
    if found.axis != 1 and (shape is None or len(shape) != 2):
        raise _Stays(f"the channels of {node.op} do not lie along axis 1")
    if len(network.readers(value)) > 1 or value in network.outputs:
        raise _Stays(f"{value} is read by others, too, before it is normalized")
    if len(network.readers(found.weight)) > 1:
        raise _Stays(f"the weight {found.weight} is read in several places")
    if found.bias and found.bias not in network.constants:
        raise _Stays(f"the bias {found.bias} is no constant")
    return found


def _maker(network: Network, value: str) -> Node:
    if value not in network.producers:
        raise _Stays("it normalizes an input of the network")
    return network.producers[value]


def _fold(network: Network, constants: Mapping[str, Tensor], linear: LinearNode, norm: Node) -> Edit:
    gamma, beta, mean, variance = (constants[name].double() for name in norm.inputs[1:5])
    factor = gamma / torch.sqrt(variance + float(norm.attributes.get("epsilon", 1e-5)))
    if not bool(torch.isfinite(factor).all()):
        raise _Stays("its statistics hold a number that is not finite, or a negative variance")
    edit, bias = own_bias(network, constants, linear)
    now = edit.network(network)
    last = now.producers[norm.inputs[0]]
    unread = [name for name in dict.fromkeys(norm.inputs[1:5]) if len(now.readers(name)) == 1]
    dropped = {name: constants[name] for name in unread if name not in now.outputs}
    rename = Rewrite((last, norm), (replace(last, outputs=norm.outputs[:1]),), dropped)
    maps = times(linear.weight, factor[linear.writes]), Affine(bias, factor, beta - factor * mean)
    return edit.then(Edit((*maps, rename)))
