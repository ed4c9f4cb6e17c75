"""Puts a branch of an ONNX graph in the place of its `If`, and drops what nothing reads after that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from bitwright.graph.names import Names
from bitwright.graph.onnx import reads_of

THEN, ELSE = "then_branch", "else_branch"


def is_branching(node: NodeProto) -> bool:
    """Whether a node runs one of two subgraphs."""
    return node.op_type == "If" and node.domain in ("", "ai.onnx")


def take_branch(graph: GraphProto, place: int, condition: bool) -> None:
    """Put the branch that runs under this condition in the place of the `If` at `place`; the graph is changed.

    Names that the graph has already are given up for new ones; the outputs keep the names that the `If` gave them.
    """
    node = graph.node[place]
    branch = next(one.g for one in node.attribute if one.name == (THEN if condition else ELSE))
    others = [copied(one) if at != place else NodeProto(output=node.output) for at, one in enumerate(graph.node)]
    rest = GraphProto(node=others, input=graph.input, output=graph.output, initializer=_bare(graph))
    outside = set(every_name(rest))
    fresh = Names(outside | set(every_name(branch))).fresh
    names = {name: fresh(name) if name in outside else name for name in _made_in(branch)}
    computed = {name for inner in branch.node for name in inner.output}
    copies = []
    for inner, outer in zip(branch.output, node.output, strict=True):
        if inner.name in computed and names[inner.name] not in node.output:
            names[inner.name] = outer or names[inner.name]
        elif outer:  # a constant, a value from outside, or one that goes out twice
            copies.append((inner.name, outer))
    body = [_renamed(inner, names) for inner in branch.node]
    body += [helper.make_node("Identity", [names.get(a, a)], [b], name=fresh(f"{b}/copy")) for a, b in copies]
    for tensor in branch.initializer:
        held = graph.initializer.add()
        held.CopyFrom(tensor)
        held.name = names[tensor.name]
    others[place : place + 1] = body
    del graph.node[:]
    graph.node.extend(others)


def rename_reads(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Let everything that reads one of these values, in subgraphs too, read another; the graph is changed."""
    for node in graph.node:
        node.CopyFrom(_renamed(node, names, outputs=False))


def drop_unread(graph: GraphProto) -> None:
    """Take out nodes and constants that no output of the graph depends on."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(filter(None, node.output)):
            needed.update(reads_of(node))
            kept.append(node)
    kept.reverse()
    nodes = [copied(node) for node in kept]
    del graph.node[:]
    graph.node.extend(nodes)
    for held in (graph.initializer, graph.value_info):
        for one in [one for one in held if one.name not in needed]:
            held.remove(one)


def every_name(graph: GraphProto) -> Iterator[str]:
    """Every name of a value, inside subgraphs too."""
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    for node in graph.node:
        yield from filter(None, (*node.input, *node.output))
        for inner in _inside(node):
            yield from every_name(inner)


def copied(node: NodeProto) -> NodeProto:
    """A copy of a node."""
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _bare(graph: GraphProto) -> list[TensorProto]:
    return [TensorProto(name=tensor.name) for tensor in graph.initializer]


def _made_in(graph: GraphProto) -> list[str]:
    made = [tensor.name for tensor in graph.initializer]
    return made + [name for node in graph.node for name in node.output if name]


def _inside(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _renamed(node: NodeProto, names: Mapping[str, str], outputs: bool = True) -> NodeProto:
    """A copy of a node, and of all inside it, with other names; a name that a subgraph gives itself is its own."""
    copy = copied(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    if outputs:
        copy.output[:] = [names.get(name, name) for name in node.output]
    for inner in _inside(copy):
        own = {value.name for value in inner.input} | set(_made_in(inner))
        seen = {name: new for name, new in names.items() if name not in own}
        for place, one in enumerate(inner.node):
            inner.node[place].CopyFrom(_renamed(one, seen))
        for value in inner.output:
            value.name = seen.get(value.name, value.name)
    return copy
