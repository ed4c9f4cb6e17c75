"""Raises the opset of a model that is being changed, because a form needs operators that its own opset lacks.

An operator whose schema only gained types, inputs and attributes that may be left out computes what it did, so its node
stays as it is. The few whose meaning changed are rewritten in place, each by a function here. One that is in neither
class is an ExportError that names the node: nothing is converted on trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
import torch
from onnx import AttributeProto, ModelProto, NodeProto, helper
from torch import Tensor

from bitwright.export.exporter import ExportError
from bitwright.graph.onnx import inner_nodes, opset_of

CHANGED = {"GroupNormalization": 21, "DFT": 20}  # computes something else since, under a schema that looks alike
IR_VERSIONS = {19: 9, 21: 10, 25: 13}  # the first that may say this opset
Store = Callable[[str, Tensor], str]


def raise_opset(model: ModelProto, opset: int, store: Store) -> None:
    """Raise the model to this opset in place, unless it has it already. `store`: keeps a new constant, gives its name.

    Raises ExportError, before anything is changed, for an operator whose meaning changed in a way not known here.
    """
    before = opset_of(model)
    if before >= opset:
        return
    nodes = [node for node in every_node(model) if node.domain in ("", "ai.onnx")]
    for node in nodes:
        if not _adapters(node, before, opset) and not keeps_meaning(node, before, opset):
            raise ExportError(
                f"{node.name or node.output[0]}: {node.op_type} changed between opset {before}, which the model uses, "
                f"and {opset}, which this form needs; export the model with opset {opset}, or take another form"
            )
    for node in nodes:
        for adapt in _adapters(node, before, opset):
            adapt(node, store)
    for imported in model.opset_import:
        if imported.domain in ("", "ai.onnx"):
            imported.version = opset
    needed = max(version for first, version in IR_VERSIONS.items() if first <= opset)
    model.ir_version = max(model.ir_version, needed)


def every_node(model: ModelProto) -> Iterator[NodeProto]:
    """The nodes of the main graph and of all subgraphs."""
    yield from model.graph.node
    yield from (node for node, _ in inner_nodes(model))


def keeps_meaning(node: NodeProto, before: int, after: int) -> bool:
    """Whether the node is valid in both opsets, and the later schema only added what may be left out."""
    try:
        old, new = (onnx.defs.get_schema(node.op_type, version, "") for version in (before, after))
    except onnx.defs.SchemaError:
        return False
    if old.since_version == new.since_version:
        return True
    if before < CHANGED.get(node.op_type, 0) <= after:
        return False
    given = {attribute.name for attribute in node.attribute}
    kept = [name for name in old.attributes if name in new.attributes]
    same_defaults = all(_default(old, name) == _default(new, name) for name in kept if name not in given)
    fits = new.min_input <= len(node.input) <= new.max_input and len(node.output) <= new.max_output
    required = {name for name, attribute in new.attributes.items() if attribute.required}
    names = [one.name for one in old.inputs][: len(node.input)] == [one.name for one in new.inputs][: len(node.input)]
    return (
        not new.deprecated and same_defaults and fits and names and given <= new.attributes.keys() and required <= given
    )


def _default(schema: onnx.defs.OpSchema, name: str) -> bytes:
    found: bytes = schema.attributes[name].default_value.SerializeToString()
    return found


def _axes_to_input(node: NodeProto, store: Store) -> None:
    """Reductions took their axes as an attribute until opset 18."""
    for attribute in [one for one in node.attribute if one.name == "axes"]:
        node.input.append(store(f"{node.output[0]}.axes", torch.tensor(list(attribute.ints), dtype=torch.int64)))
        node.attribute.remove(attribute)


def _count_parts(node: NodeProto, store: Store) -> None:
    """A Split into equal parts has to say into how many since opset 18."""
    if len(node.input) < 2 or not node.input[1]:
        node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))


def _keep_corners(node: NodeProto, store: Store) -> None:
    """The default place of a sample moved by half a pixel in opset 16."""
    if not any(one.name == "coordinate_transformation_mode" for one in node.attribute):
        node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "output_half_pixel"))


def _rename_modes(node: NodeProto, store: Store) -> None:
    """Interpolation modes got the names of Resize in opset 20."""
    names = {b"bilinear": b"linear", b"bicubic": b"cubic"}
    for attribute in node.attribute:
        if attribute.name == "mode" and attribute.type == AttributeProto.STRING:
            attribute.s = names.get(attribute.s, attribute.s)


_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare"
ADAPTERS: dict[str, tuple[int, Callable[[NodeProto, Store], None]]] = {
    **{f"Reduce{kind}": (18, _axes_to_input) for kind in _REDUCTIONS.split()},
    "Split": (18, _count_parts),
    "RoiAlign": (16, _keep_corners),
    "GridSample": (20, _rename_modes),
}


def _adapters(node: NodeProto, before: int, after: int) -> list[Callable[[NodeProto, Store], None]]:
    """What has to be done to the node between these opsets."""
    version, adapt = ADAPTERS.get(node.op_type, (0, _count_parts))
    return [adapt] if before < version <= after else []
