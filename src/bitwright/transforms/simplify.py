"""Takes out of a network what is there for its writer only: parts that do not depend on its inputs, and copies.

Exporters leave weights that are computed (cast from float16, transposed, scaled) and operators that hand on what they
read (Identity, Dropout outside training). Neither changes an output; both hide a weight or a chain of integer operators
from whoever looks for them. Which nodes are constant is decided here; whoever runs networks computes what they make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from bitwright.graph.network import Network, Node
from bitwright.transforms.transform import Edit, Rewrite

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
COPIES = ("Identity", "Dropout")
NO_NUMBERS = ("string", "unknown")


def constant_nodes(network: Network) -> tuple[Node, ...]:
    """The nodes that make the same in every run, in running order; those that make an output of the network stay."""
    found: list[Node] = []
    known = set(network.constants)
    for node in network.nodes:
        reads, makes = ([name for name in names if name] for names in (node.inputs, node.outputs))
        is_closed = not node.captures and node.op not in RANDOM and bool(reads)
        if not is_closed or not known.issuperset(reads):
            continue
        if any(network.values[name].dtype in NO_NUMBERS or name in network.outputs for name in (*reads, *makes)):
            continue
        found.append(node)
        known.update(makes)
    return tuple(found)


def as_constants(network: Network, constants: Mapping[str, Tensor], made: Mapping[str, Tensor]) -> Edit:
    """Put these values, which the constant nodes among others make, in the place of the nodes.

    Constants that nothing else reads are dropped.
    """
    gone = tuple(n for n in constant_nodes(network) if all(name in made for name in n.outputs if name))
    names = {node.name for node in gone}
    read = {name for node in network.nodes if node.name not in names for name in (*node.inputs, *node.captures)}
    read |= set(network.outputs)
    dropped = {n: constants[n] for node in gone for n in node.inputs if n in constants and n not in read}
    added = {name: made[name] for node in gone for name in node.outputs if name in read}
    return Edit((Rewrite(gone, (), dropped, added),)) if gone else Edit()


def without_copies(network: Network) -> Edit:
    """Let every reader of an Identity, or of a Dropout that drops nothing, read what that reads.

    One whose output is the network's stays, and one that is read inside a subgraph.
    """
    steps: list[Rewrite] = []
    for name in [node.name for node in network.nodes if node.op in COPIES]:
        copy = next(node for node in network.nodes if node.name == name)
        if not _is_copy(network, copy):
            continue
        readers = {reader.name for reader, _ in network.readers(copy.made)}
        reading = [node for node in network.nodes if node.name in readers]
        swaps = [Rewrite((node,), (_reading(node, copy.made, copy.inputs[0]),)) for node in reading]
        for step in (*swaps, Rewrite((copy,), ())):
            network = step.network(network)
            steps.append(step)
    return Edit(tuple(steps))


def _is_copy(network: Network, node: Node) -> bool:
    """Whether a node hands on its first input, and can go."""
    if node.domain or node.op not in COPIES or not node.inputs[0]:
        return False
    if any(network.readers(name) or name in network.outputs for name in node.outputs[1:] if name):
        return False  # a mask that is used
    if node.op == "Dropout" and len(node.inputs) > 2 and node.inputs[2]:
        return False  # it may be told to drop
    return node.made not in network.outputs and all(place >= 0 for _, place in network.readers(node.made))


def _reading(node: Node, old: str, new: str) -> Node:
    inputs = tuple(new if name == old else name for name in node.inputs)
    return replace(node, inputs=inputs)
