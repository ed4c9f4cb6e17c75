"""Copies of values, so that who reads the copy may read it in codes of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from bitwright.graph.network import Network, Node
from bitwright.transforms.transform import Edit, Rewrite


def with_copies(network: Network, readers: Mapping[str, Collection[str]]) -> Edit:
    """Let the nodes of these names read a copy of a value, an Identity that runs right before the first of them.

    `readers`: by value, the names of the nodes. The copy is named after the value.
    """
    steps: list[Rewrite] = []
    for value, names in readers.items():
        held = replace(network.values[value], name=_fresh(network, f"{value}/copy"))
        copy = Node(held.name, "Identity", (value,), (held.name,))
        for node in [node for node in network.nodes if node.name in names]:
            inputs = tuple(held.name if name == value else name for name in node.inputs)
            first = () if held.name in network.values else (copy,)
            step = Rewrite((node,), (*first, replace(node, inputs=inputs)), values={held.name: held})
            network = step.network(network)
            steps.append(step)
    return Edit(tuple(steps))


def _fresh(network: Network, name: str) -> str:
    """This name, or one made of it that nothing in the network has."""
    taken = {*network.values, *(node.name for node in network.nodes)}
    while name in taken:
        name += "'"
    return name
