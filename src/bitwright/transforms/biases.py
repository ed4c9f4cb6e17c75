"""Gives a linear operator a bias of its own: one constant with a number per output channel, read by nothing else.

Folding a normalization and correcting a bias both add to a bias, which may be missing, shared with another operator, or
one number for all channels. Conv, ConvTranspose and Gemm take it as their third input; behind a MatMul it is an Add.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from bitwright.graph.linear_node import LinearNode
from bitwright.graph.network import Network, Node, Value
from bitwright.transforms.transform import Edit, Rewrite, fresh


def own_bias(network: Network, constants: Mapping[str, Tensor], linear: LinearNode) -> tuple[Edit, str]:
    """The edit that makes sure of it (it may have no steps), and the name of the bias, of shape [out].

    What the operator gives out keeps its name. Where a MatMul had none the bias lies in an Add that makes that value.
    """
    if linear.node.op == "MatMul":
        return _behind(network, constants, linear)
    beta = float(linear.node.attributes.get("beta", 1.0))
    name = linear.bias
    is_plain = name in network.constants and tuple(constants[name].shape) == (linear.outputs,) if name else False
    if name and is_plain and beta == 1.0 and len(network.readers(name)) == 1 and name not in network.outputs:
        return Edit(), name
    if name and name not in network.constants:
        raise ValueError(f"{linear.output}: its bias {name} is computed by the network, so nothing can be added to it")
    numbers = torch.zeros(linear.outputs, dtype=constants[linear.weight].dtype)
    if name:
        numbers = (constants[name] * beta).expand(1, linear.outputs).reshape(-1).clone()
    own = fresh(network, f"{linear.output}.bias")
    attributes = {key: value for key, value in linear.node.attributes.items() if key != "beta"}
    node = replace(linear.node, inputs=(*linear.node.inputs[:2], own), attributes=attributes)
    return Edit((Rewrite((linear.node,), (node,), added={own: numbers}),)), own


def bias_reader(network: Network, linear: LinearNode) -> tuple[Node, str] | None:
    """The Add behind a MatMul that alone reads it and adds a constant vector, and that constant; None without one."""
    readers = network.readers(linear.output)
    if len(readers) != 1 or readers[0][0].op != "Add" or linear.output in network.outputs:
        return None
    node, place = readers[0]
    name = node.inputs[1 - place]
    shape = network.values[name].shape if name in network.constants else None
    is_vector = shape is not None and shape[-1:] == (linear.outputs,) and shape[:-1] == (1,) * (len(shape) - 1)
    if not is_vector or len(network.readers(name)) > 1 or name in network.outputs:
        return None
    return node, name


def biased_value(network: Network, linear: LinearNode) -> str:
    """The value that the operator's bias is part of: what it makes, or what the Add behind a MatMul makes."""
    found = bias_reader(network, linear) if linear.node.op == "MatMul" else None
    return found[0].outputs[0] if found else linear.output


def _behind(network: Network, constants: Mapping[str, Tensor], linear: LinearNode) -> tuple[Edit, str]:
    if found := bias_reader(network, linear):
        return Edit(), found[1]
    bare, own = fresh(network, f"{linear.output}.bare"), fresh(network, f"{linear.output}.bias")
    product = replace(linear.node, outputs=(bare,))
    add = Node(f"{linear.node.name}.bias", "Add", (bare, own), linear.node.outputs)
    known = network.values[linear.output]
    numbers = torch.zeros(linear.outputs, dtype=constants[linear.weight].dtype)
    values = {bare: Value(bare, known.shape, known.dtype)}
    return Edit((Rewrite((linear.node,), (product, add), added={own: numbers}, values=values),)), own
