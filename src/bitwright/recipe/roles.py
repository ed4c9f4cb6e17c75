"""Which operators of a network can run in integers on a target, and why the others cannot.

A role says what an operator does to the scale of its numbers; it follows from the operator's name, what it reads, and
the target's table. Whether an operator that could run in integers really does is decided later, by what surrounds it.
"""

from __future__ import annotations

from bitwright.graph.linear_node import linear_of, table_of
from bitwright.graph.network import Network, Node
from bitwright.recipe.targets import CLAMPS, LINEAR, MOVES, Role, Target

TABLE_NUMBERS, TABLE_COLUMNS = 1 << 14, 16  # of a table that is worth codes; each row has a scale of its own
ONLY_FIRST = MOVES | {"Clip"}  # their other inputs say where, how far, between what


CURVED = ("Erf", "Tanh", "Sigmoid")  # whose arguments and results are scaled in parts by numbers


def role_of(network: Network, node: Node, target: Target) -> tuple[Role, str]:
    """What a node is on this target; for FLOAT also why."""
    if node.domain:
        return Role.FLOAT, f"an operator of {node.domain}, which is not known"
    if node.captures or any(name and network.values[name].dtype == "unknown" for name in node.outputs):
        return Role.FLOAT, "it has a subgraph, or its types are not known"
    if network.values[node.made].dtype != "float32":
        return Role.FLOAT, f"it makes {network.values[node.made].dtype}, not float32"
    if node.op in LINEAR or node.op in target.linear or node.op == "ConvTranspose":
        return _linear(network, node, target)
    if node.op in target.recurrent:
        return _recurrent(network, node)
    if target.has_tables and _is_table(network, node):
        return Role.TABLE, ""
    role = _named(node, target)
    if role is None:
        return Role.FLOAT, f"{target.engine} has no integer {node.op}"
    reads = [name for name in node.inputs if name]
    if role is Role.BLEND and target.blends_numbers and _has_number(network, node):
        return (Role.FLOAT, "part of a curve") if _is_in_curve(network, node) else (role, "")
    if any(name in network.constants for name in (reads[:1] if node.op in ONLY_FIRST else reads)):
        return Role.FLOAT, "one of its operands is a constant"
    if role is Role.AVERAGE and _counts_padding(node):
        if not target.pads_with_zero:
            return Role.FLOAT, f"{target.engine} pads codes with the least one, which need not stand for zero"
        if node.attributes.get("ceil_mode", 0):
            return Role.FLOAT, "it counts its padding, and integer kernels also what lies beyond"
    return role, ""


def in_small_groups(network: Network, target: Target) -> dict[str, str]:
    """Convolutions whose integer form would be slower than float on this target, and why."""
    found = {}
    for node in network.nodes:
        linear = linear_of(network, node) if node.op == "Conv" else None
        groups = node.attributes.get("group", 1)
        if linear is None:
            continue
        is_single = linear.inputs == linear.outputs == 1  # one channel to one is no depthwise convolution to speak of
        if not is_single and (groups == 1 or linear.inputs == linear.outputs == groups):
            continue
        width = linear.inputs // groups
        if width < target.least_group:
            found[node.name] = f"{target.engine} is slower in integers with groups of {width} channels"
    return found


def _has_number(network: Network, node: Node) -> bool:
    """Whether one of the two operands is a constant number, which the result has no more axes for."""
    held = [name for name in node.inputs if name in network.constants]
    shape = network.values[held[0]].shape if len(held) == 1 else None
    made = network.values[node.made].shape
    if shape is None or made is None or any(size != 1 for size in shape):
        return False
    other = next(name for name in node.inputs if name not in network.constants)
    return len(shape) <= len(network.values[other].shape or ())


def _is_in_curve(network: Network, node: Node) -> bool:
    """Whether a sum or product with a number is part of a curve written in parts, as GELU is.

    Engines recognize those by their parts, and compute them at once.
    """
    return _reaches(network, node, CURVED, set()) or _follows(network, node, ("Erf", "Tanh"))


def _reaches(network: Network, node: Node, ops: tuple[str, ...], seen: set[str]) -> bool:
    """Whether such an operator reads what a node makes, or it is multiplied with what such an operator makes."""
    for reader, _ in network.readers(node.made):
        if reader.op in ops:
            return True
        others = [network.producers.get(name) for name in reader.inputs if name != node.made]
        if reader.op == "Mul" and any(other is not None and _follows(network, other, ops[:2]) for other in others):
            return True
        is_next = reader.op in ("Add", "Mul", "Div", "Sub") and _has_number(network, reader)
        if is_next and reader.name not in seen:
            seen.add(reader.name)
            if _reaches(network, reader, ops, seen):
                return True
    return False


def _follows(network: Network, node: Node, ops: tuple[str, ...], depth: int = 4) -> bool:
    """Whether what a node makes comes from such an operator, through a few sums and products."""
    if node.op in ops:
        return True
    if node.op not in ("Add", "Mul") or depth == 0:
        return False
    makers = [network.producers.get(name) for name in node.inputs]
    return any(maker is not None and _follows(network, maker, ops, depth - 1) for maker in makers)


def _counts_padding(node: Node) -> bool:
    """Whether a mean is over the padding, too."""
    return bool(node.attributes.get("count_include_pad", 0)) and any(node.attributes.get("pads", ()))


def _named(node: Node, target: Target) -> Role | None:
    """What an operator is by its name."""
    if node.op in MOVES:
        return Role.MOVE
    if node.op in CLAMPS:
        return Role.CLAMP
    if node.op in target.averages:
        return Role.AVERAGE
    if node.op in target.curves:
        return Role.CURVE
    return {"Add": Role.BLEND, "Mul": Role.BLEND, "Concat": Role.JOIN}.get(node.op)


def recurrent_weights(node: Node) -> tuple[str, ...]:
    """The two weights of a recurrent operator: of what it reads and of its state, [directions, gates, inputs] each."""
    return node.inputs[1:3]


def _recurrent(network: Network, node: Node) -> tuple[Role, str]:
    if not all(
        name in network.constants and None not in (network.values[name].shape or (None,))
        for name in recurrent_weights(node)
    ):
        return Role.FLOAT, "its weights are no constants"
    if node.attributes.get("layout", 0):
        return Role.FLOAT, "it reads batches first, which the integer one does not"
    return Role.RECURRENT, ""


def _is_table(network: Network, node: Node) -> bool:
    """Whether a node picks rows of a constant matrix that is worth codes, and that nothing reads in another way."""
    name = table_of(network, node)
    if name is None:
        return False
    rows, columns = (size or 0 for size in network.values[name].shape or ())
    if columns < TABLE_COLUMNS or rows * columns < TABLE_NUMBERS or name in network.outputs:
        return False
    return all(table_of(network, reader) == name and place == 0 for reader, place in network.readers(name))


def _linear(network: Network, node: Node, target: Target) -> tuple[Role, str]:
    if node.op not in target.linear:
        return Role.FLOAT, f"{target.engine} has no integer {node.op}"
    if node.inputs[0] in network.constants:
        return Role.FLOAT, "what it reads is a constant"
    if node.op == "MatMul" and node.inputs[1] not in network.constants:
        return Role.PRODUCT, ""
    if linear_of(network, node) is None:
        return Role.FLOAT, "its weight is not a constant matrix or kernel"
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    if bias and bias not in network.constants:
        return Role.FLOAT, "its bias is computed by the network"
    if node.op == "Gemm" and (node.attributes.get("alpha", 1.0) != 1.0 or node.attributes.get("beta", 1.0) != 1.0):
        return Role.FLOAT, "its alpha or beta is not 1"
    return Role.LINEAR, ""
