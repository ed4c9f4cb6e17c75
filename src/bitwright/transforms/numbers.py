"""A number behind an activation function, moved into the linear operators that read it.

Networks with a learned line behind each activation (y = k act(x) + b, with one k and one b) would need two more passes
over every value. The linear operators that alone read y take k into their weights and b into their biases; where one of
them pads with zeros, which b would have to be added to as well, b stays, divided by k, in front.

Only behind operators that are an activation by themselves: elsewhere a number may belong to a curve written in parts
(the half of GELU), which engines recognize by those parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite

import torch
from torch import Tensor

from bitwright.graph.linear_node import LinearNode, linear_of
from bitwright.graph.network import Network, Node
from bitwright.transforms.biases import own_bias
from bitwright.transforms.transform import Edit, Rewrite, fresh, plus, times

ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "PRelu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid"})
GATES = frozenset({"HardSigmoid", "Sigmoid"})
POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})


def numbers_into_readers(network: Network, constants: Mapping[str, Tensor]) -> Edit:
    """Move numbers behind activations into the weights and biases of the operators that read them."""
    edit = Edit()
    for name in [node.name for node in network.nodes if node.op in ("Mul", "Add") and not node.domain]:
        node = next(held for held in network.nodes if held.name == name)
        for plan in (_moved, _exchanged):
            step = plan(network, constants, node)
            if step is not None:
                network, constants = step.apply(network, constants)
                edit = edit.then(step)
                break
    return edit


def _moved(network: Network, constants: Mapping[str, Tensor], node: Node) -> Edit | None:
    """A product or a sum in the linear operators that read it."""
    found, readers = _number(network, constants, node), _readers(network, node.made)
    if found is None or readers is None:
        return None
    value, number = found
    if node.op == "Add" and any(_pads(linear.node) for linear in readers):
        return None
    edit = Edit()
    for linear in readers:
        now, held = edit.apply(network, constants)
        if node.op == "Mul":
            edit = edit.then(Edit((times(linear.weight, torch.tensor(number, dtype=torch.float64)),)))
        else:
            owned, bias = own_bias(now, held, linear)
            offset = linear.respond(held[linear.weight], torch.full((linear.inputs,), number, dtype=torch.float64))
            edit = edit.then(owned).then(Edit((plus(bias, offset),)))
    now = edit.network(network)
    reading = [held for held, _ in now.readers(node.made)]
    swaps = [Rewrite((held,), (replace(held, inputs=(value, *held.inputs[1:])),)) for held in reading]
    return edit.then(Edit((*swaps, Rewrite((node,), ()))))


def _exchanged(network: Network, constants: Mapping[str, Tensor], node: Node) -> Edit | None:
    """A product before a sum, which cannot move, after it: the readers of the sum then take the number."""
    found = _number(network, constants, node)
    behind = network.readers(node.made)
    if node.op != "Mul" or found is None or len(behind) != 1 or node.made in network.outputs:
        return None
    (value, number), add = found, behind[0][0]
    if add.domain or add.op != "Add" or (readers := _readers(network, add.made)) is None:
        return None
    name = next((name for name in add.inputs if name != node.made), "")
    is_number = name in constants and constants[name].numel() == 1
    if not is_number or network.values[add.made].shape != network.values[value].shape:
        return None
    own = fresh(network, f"{add.made}.number")
    offset = constants[name] / number
    if not bool(torch.isfinite(offset).all()):
        return None
    after = replace(add, inputs=tuple(value if given == node.made else own for given in add.inputs))
    factors = [times(linear.weight, torch.tensor(number, dtype=torch.float64)) for linear in readers]
    return Edit((*factors, Rewrite((node, add), (after,), {}, {own: offset})))


def _number(network: Network, constants: Mapping[str, Tensor], node: Node) -> tuple[str, float] | None:
    """The activation that a node adds one number to, or multiplies by one, and the number; None for other nodes."""
    for place in (0, 1):
        value, name = node.inputs[place], node.inputs[1 - place]
        if name not in constants or value in network.constants or constants[name].numel() != 1:
            continue
        shapes = network.values[value].shape, network.values[name].shape
        if None in shapes or len(shapes[1] or ()) > len(shapes[0] or ()) or not _is_activation(network, value):
            return None
        number = float(constants[name])
        return (value, number) if isfinite(number) and (number or node.op == "Add") else None
    return None


def _is_activation(network: Network, value: str) -> bool:
    """Whether an activation function makes this, or a line or a pool behind one."""
    maker = network.producers.get(value)
    if maker is None or maker.domain:
        return False
    if maker.op in ACTIVATIONS:
        return True
    if maker.op in POOLS:
        return _is_activation(network, maker.inputs[0])
    if maker.op not in ("Mul", "Add"):
        return False
    makers = {name: network.producers.get(name) for name in maker.inputs}
    for one, other in (maker.inputs, maker.inputs[::-1]):
        held = makers[one]
        if maker.op == "Mul" and held is not None and held.op in GATES and held.inputs[0] == other:
            return True
        if one in network.constants:
            return _is_activation(network, other)
    return False


def _readers(network: Network, value: str) -> tuple[LinearNode, ...] | None:
    """The linear operators that alone read a value, each with a weight of its own; None if others read it, too."""
    found = []
    for node, place in network.readers(value):
        linear = linear_of(network, node) if place == 0 else None
        if linear is None or len(network.readers(linear.weight)) > 1 or linear.weight in network.outputs:
            return None
        if linear.bias and linear.bias not in network.constants:
            return None
        found.append(linear)
    return tuple(found) if found and value not in network.outputs else None


def _pads(node: Node) -> bool:
    """Whether an operator reads, or may read, beyond the edge of its input."""
    if node.op not in ("Conv", "ConvTranspose"):
        return False
    is_told = node.attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return node.op == "ConvTranspose" or not is_told or any(node.attributes.get("pads", ()))
