"""Zeros around an input as part of the operator that reads them: engines have no integer Pad, but pad in integers.

Networks that pad as TensorFlow does, more behind than before, are exported with a Pad of its own in front of every
convolution. Each would end a run of integers. Convolutions, and means that count their padding, take uneven padding
themselves; maxima do not, because they pad with the least number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from bitwright.graph.network import Network, Node
from bitwright.transforms.transform import Edit, Rewrite

AS_TOLD = ("NOTSET", "VALID")


def pads_into_windows(network: Network, constants: Mapping[str, Tensor]) -> Edit:
    """Let the convolutions and means behind a Pad with zeros pad themselves; a Pad that nothing reads any more goes."""
    edit = Edit()
    for pad in [node for node in network.nodes if node.op == "Pad" and not node.domain]:
        around = _zeros_around(network, pad, constants)
        if around is None:
            continue
        for reader in [node for node in network.nodes if _takes(node, pad.made)]:
            step = Edit((Rewrite((reader,), (_padded(reader, pad, around),)),))
            network, edit = step.network(network), edit.then(step)
        if not network.readers(pad.made) and pad.made not in network.outputs:
            step = Edit((Rewrite((pad,), ()),))
            network, edit = step.network(network), edit.then(step)
    return edit


def means_without_padding(network: Network) -> Edit:
    """Say of means that pad nothing that they do not count padding.

    It changes nothing by the standard. But windows that reach over the edge (`ceil_mode`) make ONNX Runtime's integer
    kernel divide by positions that do not exist, where its float kernel does not.
    """
    steps = []
    for node in network.nodes:
        counts = node.op == "AveragePool" and not node.domain and node.attributes.get("count_include_pad", 0)
        if counts and _pads_as_told(node) and not any(node.attributes.get("pads", ())):
            steps.append(Rewrite((node,), (replace(node, attributes={**node.attributes, "count_include_pad": 0}),)))
    return Edit(tuple(steps))


def _zeros_around(network: Network, pad: Node, constants: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    """How many zeros a Pad puts before and behind along each axis of positions; None if it does anything else."""
    shape = network.values[pad.inputs[0]].shape
    if shape is None or len(shape) < 3 or pad.attributes.get("mode", "constant") != "constant":
        return None
    if any(name and name not in constants for name in pad.inputs[1:]):
        return None
    given = [constants[name].reshape(-1).tolist() if name else None for name in pad.inputs[1:]]
    amounts, value, axes = (*given, None, None, None)[:3]
    amounts = pad.attributes.get("pads") if amounts is None else amounts
    number = pad.attributes.get("value", 0.0) if not value else value[0]
    if amounts is None or number != 0:
        return None
    axes = [axis % len(shape) for axis in (range(len(shape)) if axes is None else axes)]
    before, behind = [0] * len(shape), [0] * len(shape)
    for place, axis in enumerate(axes):
        before[axis], behind[axis] = int(amounts[place]), int(amounts[len(axes) + place])
    if any((*before[:2], *behind[:2])) or min((*before, *behind)) < 0:
        return None
    return (*before[2:], *behind[2:])


def _takes(node: Node, value: str) -> bool:
    """Whether a node can pad what it reads with zeros itself."""
    if node.domain or not node.inputs or node.inputs[0] != value or not _pads_as_told(node):
        return False
    if node.op == "AveragePool":
        counts = bool(node.attributes.get("count_include_pad", 0)) or not any(node.attributes.get("pads", ()))
        return counts and not node.attributes.get("ceil_mode", 0)
    return node.op == "Conv"


def _pads_as_told(node: Node) -> bool:
    """Whether its padding is what `pads` says."""
    return node.attributes.get("auto_pad", "NOTSET") in AS_TOLD


def _padded(node: Node, pad: Node, around: tuple[int, ...]) -> Node:
    own = node.attributes.get("pads") or (0,) * len(around)
    attributes = {name: value for name, value in node.attributes.items() if name != "auto_pad"}
    attributes["pads"] = tuple(a + b for a, b in zip(own, around, strict=True))
    if node.op == "AveragePool":
        attributes["count_include_pad"] = 1
    return replace(node, inputs=(pad.inputs[0], *node.inputs[1:]), attributes=attributes)
