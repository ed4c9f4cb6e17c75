"""Hard gates (HardSigmoid, HardSwish) in the form that takes codes well: part of a range, one line, one product.

HardSigmoid is a line that is cut at 0 and 1. Engines that have no integer kernel for it add codes in integers, and what
lies below 0 or above 1 is cut by the range of the codes. Exporters write it in parts, relu6(x + 3) / 6, and HardSwish
as x relu6(x + 3) / 6: those parts become one HardSigmoid again, and HardSwish its product with x. Where nothing else
reads x it is clipped first where the gate is 0: that changes no result, and the range of its codes ends there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from bitwright.graph.network import Network, Node, Value
from bitwright.transforms.clip import clip_bounds
from bitwright.transforms.transform import Edit, Rewrite, fresh

SLOPE, OFFSET = 1 / 6, 0.5  # of HardSwish, by ONNX's definition
# How far beyond the point where the gate is 0 (or 1) x is cut, as a share of the gate's width: the code that stands for
# the cut is up to half a step beside it, and would leave the gate a little open for all that lies below.
MARGIN = 1 / 16
SAME = 1e-6  # how far a written 1/6 may be from the number
DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


def gates_in_parts(network: Network, constants: Mapping[str, Tensor]) -> Edit:
    """Every hard gate as HardSigmoid of a clipped value, and the product with it."""
    edit = Edit()
    for plan in (_joined, _opened, _clipped):
        for name in [node.name for node in network.nodes if not node.domain]:
            node = next((held for held in network.nodes if held.name == name), None)
            step = plan(network, constants, node) if node is not None else None
            if step is not None:
                network, constants = step.network(network), step.constants(constants)
                edit = edit.then(Edit((step,)))
    return edit


@final
@dataclass(frozen=True, slots=True)
class _Number:
    """A node that adds a number to a value or multiplies it by one."""

    node: Node
    value: str
    number: float


def _joined(network: Network, constants: Mapping[str, Tensor], clip: Node) -> Rewrite | None:
    """The parts of a gate around a Clip as one HardSigmoid, times x where the product was taken before the division."""
    bounds = clip_bounds(clip, constants) if clip.op == "Clip" else None
    if bounds is None or bounds[0] != 0 or not 0 < bounds[1] < inf:
        return None
    start = _number_at(network, constants, network.producers.get(clip.inputs[0]), ("Add",))
    behind = _only_reader(network, clip.made)
    if start is None or behind is None or _only_reader(network, start.node.made) != clip:
        return None
    nodes = [start.node, clip, behind]
    scaled, gate = _number_at(network, constants, behind, ("Mul", "Div")), behind.made
    if scaled is None and behind.op == "Mul" and start.value in behind.inputs:
        last = _only_reader(network, behind.made)
        scaled, gate = _number_at(network, constants, last, ("Mul", "Div")), ""
        nodes += [last] if last is not None else []
    if scaled is None or abs(scaled.number * bounds[1] - 1) > SAME:
        return None
    shape = network.values[start.value].shape
    if shape is None or network.values[nodes[-1].made].shape != shape:
        return None  # a number of more axes than the value has would add some
    slope = 1 / bounds[1]
    attributes = {"alpha": slope, "beta": start.number * slope}
    if gate:
        return Rewrite(tuple(nodes), (Node(behind.name, "HardSigmoid", (start.value,), (gate,), attributes),))
    return _as_product(network, tuple(nodes), start.value, nodes[-1].made, attributes)


def _opened(network: Network, constants: Mapping[str, Tensor], node: Node) -> Rewrite | None:
    """HardSwish as a product with HardSigmoid."""
    if node.op != "HardSwish":
        return None
    return _as_product(network, (node,), node.inputs[0], node.made, {"alpha": SLOPE, "beta": OFFSET})


def _clipped(network: Network, constants: Mapping[str, Tensor], gate: Node) -> Rewrite | None:
    """The value that a gate and its product alone read clipped where the gate is 0; where it is 1, too, without one."""
    slope, offset = float(gate.attributes.get("alpha", 0.2)), float(gate.attributes.get("beta", 0.5))
    if gate.op != "HardSigmoid" or slope <= 0 or gate.inputs[0] not in network.producers:
        return None
    value, known = gate.inputs[0], network.values[gate.inputs[0]]
    others = [node for node, place in network.readers(value) if node != gate or place != 0]
    is_product = len(others) == 1 and others[0].op == "Mul" and set(others[0].inputs) == {value, gate.made}
    if (others and not is_product) or value in network.outputs or known.dtype not in DTYPES:
        return None
    made = fresh(network, f"{value}.clipped")
    ends = {"low": (-MARGIN - offset) / slope, "high": (1 + MARGIN - offset) / slope}
    if others:
        del ends["high"]
    added = {fresh(network, f"{value}.{k}"): torch.tensor(end, dtype=DTYPES[known.dtype]) for k, end in ends.items()}
    before = (gate, *others)
    after = [replace(node, inputs=tuple(made if name == value else name for name in node.inputs)) for node in before]
    clip = Node(made, "Clip", (value, *added), (made,))
    return Rewrite(before, (clip, *after), {}, added, {made: Value(made, known.shape, known.dtype)})


def _as_product(
    network: Network, before: tuple[Node, ...], value: str, made: str, attributes: Mapping[str, float]
) -> Rewrite:
    """These nodes as the product of a value with its gate."""
    gate, known = fresh(network, f"{made}.gate"), network.values[made]
    after = Node(gate, "HardSigmoid", (value,), (gate,), dict(attributes)), Node(made, "Mul", (value, gate), (made,))
    return Rewrite(before, after, {}, {}, {gate: Value(gate, known.shape, known.dtype)})


def _only_reader(network: Network, value: str) -> Node | None:
    readers = network.readers(value)
    return readers[0][0] if len(readers) == 1 and value not in network.outputs else None


def _number_at(
    network: Network, constants: Mapping[str, Tensor], node: Node | None, ops: tuple[str, ...]
) -> _Number | None:
    """A node that takes a value and one constant number; that of a Div is the number to multiply by."""
    if node is None or node.domain or node.op not in ops:
        return None
    for place in (1,) if node.op == "Div" else (1, 0):
        name = node.inputs[place]
        if name in constants and constants[name].numel() == 1 and node.inputs[1 - place] not in network.constants:
            number = float(constants[name])
            if node.op == "Div" and number == 0:
                return None
            return _Number(node, node.inputs[1 - place], 1 / number if node.op == "Div" else number)
    return None
