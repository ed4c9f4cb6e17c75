"""What an operator is to the interpreter: a function of a node and its input tensors.

A function gets the node, for its attributes, and the inputs in order, None for one that is left out. It returns the
outputs in order; more than the node has are ignored. It says with `UnsupportedOperator` what it does not cover.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bitwright.graph.network import Node

Inputs = Sequence[Tensor | None]
Operator = Callable[[Node, Inputs], tuple[Tensor, ...]]

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
# The numbers that ONNX gives the element types, for the attributes that hold them.
NUMBERED = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


class UnsupportedOperator(ValueError):
    """The interpreter has no function for an operator, or not for this form of it; `node` is the one it met."""

    def __init__(self, node: Node, why: str = "") -> None:
        name = f"{node.domain}.{node.op}" if node.domain else node.op
        form = f" with {why}" if why else ""
        super().__init__(f"{node.name}: {name}{form} cannot be run differentiably; leave what depends on it in float")
        self.node = node


def need(node: Node, inputs: Inputs, place: int) -> Tensor:
    """The input at this place, which the operator cannot do without; UnsupportedOperator where it is left out."""
    tensor = optional(inputs, place)
    if tensor is None:
        raise UnsupportedOperator(node, f"its input {place} left out")
    return tensor


def optional(inputs: Inputs, place: int) -> Tensor | None:
    """The input at this place, or None."""
    return inputs[place] if place < len(inputs) else None


def integers(node: Node, inputs: Inputs, place: int, attribute: str) -> list[int] | None:
    """A list of integers that newer opsets take as an input and older ones as an attribute; None for neither."""
    tensor = optional(inputs, place)
    if tensor is not None:
        return [int(number) for number in tensor.reshape(-1).tolist()]
    numbers = node.attributes.get(attribute)
    return None if numbers is None else list(numbers)
