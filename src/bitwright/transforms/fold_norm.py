"""Folds lines, y = f x + o for each channel, into the linear operator before them, and keeps what normalizations knew.

At inference BatchNormalization is one, with f = gamma / sqrt(variance + epsilon) and o = beta - f mean. So is a product
or a sum with a constant that has one number, or one for each channel. The operator before it is linear, so its output
channel takes f into the weight and f, o into the bias, and the node goes. Integer inference needs this: a
requantization has no second line to apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.graph.linear_node import LinearNode, linear_of
from bitwright.graph.network import Network, Node
from bitwright.transforms.biases import bias_reader, own_bias
from bitwright.transforms.moments import Moments
from bitwright.transforms.transform import Affine, Edit, Rewrite, times

NUMBERS = ("Add", "Sub", "Mul", "Div")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """What folding comes to. `moments`: by the value that each folded normalization made, which keeps its name.

    `left`: normalizations that stay, by the value they make, each with the reason.
    """

    edit: Edit
    moments: Mapping[str, Moments]
    left: Mapping[str, str]


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """A node that makes factor * value + offset, channel by channel, of a value and these constants; float64."""

    node: Node
    value: str
    constants: tuple[str, ...]
    factor: Float[Tensor, "channels"]
    offset: Float[Tensor, "channels"]


class _Stays(Exception):
    """Why a line cannot be folded. Internal: becomes an entry of `left`."""


def fold_norms(network: Network, constants: Mapping[str, Tensor]) -> Folded:
    """Fold every line that directly follows a linear operator with weights of its own."""
    edit = Edit()
    moments: dict[str, Moments] = {}
    left: dict[str, str] = {}
    for node in network.nodes:
        is_norm = node.op == "BatchNormalization"
        value = node.inputs[0] if is_norm else _operand(network, node)
        if value is None:
            continue
        try:
            linear = _linear_before(network, node, value)
            line = _norm(network, constants, node) if is_norm else _number(network, constants, node, value, linear)
            step = _fold(network, constants, linear, line)
        except _Stays as reason:
            if is_norm:
                left[node.outputs[0]] = str(reason)
            continue
        if is_norm:
            gamma, beta = (constants[name].double() for name in node.inputs[1:3])
            moments[node.made] = Moments(beta, gamma.abs())
        elif value in moments:
            known = moments.pop(value)
            moments[node.made] = Moments(line.factor * known.mean + line.offset, line.factor.abs() * known.deviation)
        network, constants = step.apply(network, constants)
        edit = edit.then(step)
    return Folded(edit, moments, left)


def _operand(network: Network, node: Node) -> str | None:
    """What a sum or product of a value and a constant takes beside the constant; None for other nodes."""
    if node.domain or node.op not in NUMBERS:
        return None
    first, second = node.inputs
    if second in network.constants and first not in network.constants:
        return first
    return second if first in network.constants and second not in network.constants and node.op != "Div" else None


def _norm(network: Network, constants: Mapping[str, Tensor], node: Node) -> _Line:
    """A BatchNormalization as a line."""
    if node.attributes.get("training_mode", 0) or any(node.outputs[1:]):
        raise _Stays("it computes its statistics anew from each batch")
    if not all(name in network.constants for name in node.inputs[1:]):
        raise _Stays("its statistics are no constants")
    gamma, beta, mean, variance = (constants[name].double() for name in node.inputs[1:5])
    factor = gamma / torch.sqrt(variance + float(node.attributes.get("epsilon", 1e-5)))
    if not bool(torch.isfinite(factor).all()):
        raise _Stays("its statistics hold a number that is not finite, or a negative variance")
    return _Line(node, node.inputs[0], node.inputs[1:5], factor, beta - factor * mean)


def _number(network: Network, constants: Mapping[str, Tensor], node: Node, value: str, linear: LinearNode) -> _Line:
    """A sum or product with a constant as a line; the bias behind a MatMul is one already, and stays."""
    name = node.inputs[1] if node.inputs[0] == value else node.inputs[0]
    if linear.node.op == "MatMul" and linear.output == value and node.op == "Add":
        raise _Stays("it is the bias")
    numbers, shape = constants[name].double(), network.values[value].shape
    if shape is None or not constants[name].is_floating_point() or not bool(torch.isfinite(numbers).all()):
        raise _Stays("its numbers are not known, or not finite")
    sizes = [1] * (len(shape) - numbers.dim()) + list(numbers.shape)
    axis = linear.axis % len(shape)
    is_along = len(sizes) == len(shape) and sizes[axis] in (1, linear.outputs)
    if not is_along or any(size != 1 for at, size in enumerate(sizes) if at != axis):
        raise _Stays("its numbers do not lie along the channels")
    numbers, one = numbers.reshape(-1).expand(linear.outputs), torch.ones(linear.outputs, dtype=torch.float64)
    if node.op in ("Mul", "Div"):
        factor, offset = (numbers if node.op == "Mul" else 1 / numbers), torch.zeros_like(one)
    else:
        is_taken_away = node.op == "Sub"
        factor = -one if is_taken_away and node.inputs[0] == name else one
        offset = -numbers if is_taken_away and node.inputs[1] == name else numbers
    if not bool(torch.isfinite(factor).all()) or bool((factor == 0).any()):
        raise _Stays("a factor of it is zero, or not finite")
    return _Line(node, value, (name,), factor, offset)


def _linear_before(network: Network, line: Node, value: str) -> LinearNode:
    """The linear operator whose channels this line is for, and nothing else sees before."""
    node = _maker(network, value)
    found = linear_of(network, node)
    if found is None and node.op == "Add":
        product = [name for name in node.inputs if name in network.producers]
        found = linear_of(network, network.producers[product[0]]) if len(product) == 1 else None
        found = found if found and (behind := bias_reader(network, found)) and behind[0] == node else None
    if found is None:
        raise _Stays(f"it follows {node.op}, which is no linear operator with a constant weight")
    shape = network.values[value].shape
    if line.op == "BatchNormalization" and found.axis != 1 and (shape is None or len(shape) != 2):
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


def _fold(network: Network, constants: Mapping[str, Tensor], linear: LinearNode, line: _Line) -> Edit:
    edit, bias = own_bias(network, constants, linear)
    now = edit.network(network)
    last = now.producers[line.value]
    unread = [name for name in dict.fromkeys(line.constants) if len(now.readers(name)) == 1]
    dropped = {name: constants[name] for name in unread if name not in now.outputs}
    rename = Rewrite((last, line.node), (replace(last, outputs=line.node.outputs[:1]),), dropped)
    maps = times(linear.weight, line.factor[linear.writes]), Affine(bias, line.factor, line.offset)
    return edit.then(Edit((*maps, rename)))
