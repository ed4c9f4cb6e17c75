"""A whole network as plain data: operators, constants and the values between them, without any numbers.

This is the graph of models that are quantized as a whole, activations too: an ONNX file, or a PyTorch module exported
to one. Operators carry the names and the meaning of the ONNX standard, which every engine that we deliver to shares,
so there is no second vocabulary to keep. Nodes are in an order in which they can run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final


class NetworkError(ValueError):
    """A graph that is not a network: invalid, cyclic, or with something missing. Names the node and the value."""


@final
@dataclass(frozen=True, slots=True)
class Scalar:
    """An attribute that is a tensor of one element, such as what `ConstantOfShape` fills with."""

    value: float | int | bool
    dtype: str


@final
@dataclass(frozen=True, slots=True)
class Opaque:
    """An attribute of which the network holds only that it exists; `kind` says what it is (`tensor`, `graph` ...)."""

    kind: str


@final
@dataclass(frozen=True, slots=True)
class Value:
    """A tensor's name, its shape (None: not known until it runs) and its element type in numpy's words (`float32`).

    The type is `unknown` for what a custom operator makes, and for what is not a tensor.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str


@final
@dataclass(frozen=True, slots=True)
class Node:
    """One operator. An input may be "" (left out).

    `name` is unique, also where the file gives no name or one name twice. `attributes` hold plain Python values (lists
    as tuples), a `Scalar` for a tensor of one element, an `Opaque` for other tensors and for subgraphs. `captures` are
    the outer values that the node's subgraphs read, which are inputs in all but name.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    captures: tuple[str, ...] = ()

    @property
    def made(self) -> str:
        """The first value that it makes; outputs before it may be left out."""
        return next(filter(None, self.outputs), "")


@final
@dataclass(frozen=True)
class Network:
    """Nodes in running order; `values` has what is known of every value, `constants` those that are stored.

    A stored value is an initializer or what a `Constant` node holds; such nodes are not among `nodes`.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: frozenset[str]
    values: Mapping[str, Value]
    opset: int

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that makes each value; inputs and constants are not in it."""
        return {output: node for node in self.nodes for output in node.outputs if output}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[tuple[Node, int], ...]]:
        """The nodes that read each value and at which input; -1 for one that reads it inside a subgraph."""
        found: dict[str, list[tuple[Node, int]]] = {}
        for node in self.nodes:
            for place, name in enumerate(node.inputs):
                if name:
                    found.setdefault(name, []).append((node, place))
            for name in node.captures:
                found.setdefault(name, []).append((node, -1))
        return {name: tuple(readers) for name, readers in found.items()}

    def readers(self, value: str) -> tuple[tuple[Node, int], ...]:
        """`consumers` of this value; empty where there are none (an output of the network may have none)."""
        return self.consumers.get(value, ())
