"""Runs nodes of a network as torch functions, so that gradients flow through them.

Learned rounding needs to know how a network's output moves with its weights, which ONNX Runtime cannot say. Here the
same nodes run one after the other on torch tensors; a value is forgotten as soon as nothing needs it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from bitwright.execute.operators import OPERATORS, UnsupportedOperator
from bitwright.graph.network import Node

__all__ = ["InterpretError", "UnsupportedOperator", "as_it_is", "can_interpret", "interpret"]


class InterpretError(ValueError):
    """A node cannot run on the values it was given: one is missing, or the shapes do not fit."""


def as_it_is(name: str, value: Tensor) -> Tensor:
    """The change that changes nothing."""
    return value


def can_interpret(node: Node) -> bool:
    """Whether there is a function for the node's operator; a rare form of it may still raise UnsupportedOperator."""
    return (node.domain, node.op) in OPERATORS


def interpret(
    nodes: Sequence[Node],
    values: Mapping[str, Tensor],
    wanted: Iterable[str],
    change: Callable[[str, Tensor], Tensor] = as_it_is,
) -> dict[str, Tensor]:
    """The wanted values, from `values` (inputs and constants by name) by way of `nodes` in running order.

    Only the nodes that lead to what is wanted run; a value that is given is taken as it is given, even where a node
    would make it. `change` is applied once to every value, given or made, before anything reads it: what it returns is
    what nodes read and what is handed out. Raises UnsupportedOperator, and InterpretError.
    """
    names = tuple(wanted)
    needed = _needed(nodes, values.keys(), names)
    last = {name: place for place, node in enumerate(needed) for name in node.inputs}
    known: dict[str, Tensor] = {}

    def value(node: Node, name: str) -> Tensor | None:
        if not name:
            return None
        if name not in known:
            if name not in values:
                raise InterpretError(
                    f"{node.name} ({node.op}) reads {name!r}, which is not given and which no node makes"
                )
            known[name] = change(name, values[name])
        return known[name]

    for place, node in enumerate(needed):
        outputs = _run(node, [value(node, name) for name in node.inputs])
        for name, output in zip(node.outputs, outputs, strict=False):
            if name and name not in values:
                known[name] = change(name, output)
        for name in {*node.inputs, *node.outputs}:
            if last.get(name, -1) <= place and name not in names:
                known.pop(name, None)
    lacking = [name for name in names if name not in known and name not in values]
    if lacking:
        raise InterpretError(f"{lacking[0]}: asked for, but not given, and no node makes it")
    return {name: known[name] if name in known else change(name, values[name]) for name in names}


def _needed(nodes: Sequence[Node], given: Iterable[str], wanted: Iterable[str]) -> list[Node]:
    """The nodes that lead to what is wanted and not given, in order."""
    given = set(given)
    missing = set(wanted) - given
    needed: list[Node] = []
    for node in reversed(nodes):
        if missing.isdisjoint(node.outputs):
            continue
        needed.append(node)
        missing.difference_update(node.outputs)
        missing.update(name for name in (*node.inputs, *node.captures) if name and name not in given)
    return needed[::-1]


def _run(node: Node, inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    run = OPERATORS.get((node.domain, node.op))
    if run is None:
        raise UnsupportedOperator(node)
    try:
        outputs = run(node, inputs)
    except UnsupportedOperator:
        raise
    except (RuntimeError, IndexError, KeyError, TypeError, ValueError) as error:
        shapes = [None if tensor is None else list(tensor.shape) for tensor in inputs]
        raise InterpretError(f"{node.name} ({node.op}) failed on inputs of shapes {shapes}: {error}") from error
    if len(outputs) < len([name for name in node.outputs if name]):
        raise UnsupportedOperator(node, f"{len(node.outputs)} outputs")
    return outputs
