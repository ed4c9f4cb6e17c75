"""The model of a network that was edited: the user's own nodes where they are as they were, new ones elsewhere.

Edits work on `Network`, which holds names and plain attributes. Here the ONNX graph is made to say the same: nodes that
no edit touched keep every bit of theirs (doc strings, subgraphs, metadata); changed ones keep the attributes that did
not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import Tensor

from bitwright.graph.network import Network, Node
from bitwright.graph.onnx import is_constant
from bitwright.store.onnx_source import OnnxSource


def write_edited(source: OnnxSource, network: Network, constants: Mapping[str, Tensor], path: Path) -> OnnxSource:
    """Write the edited network with these constants to `path`, and open it.

    `constants` are at least those that were changed or added; others are copied from the source.
    """
    model = source.model()
    own = source.network()
    _rewrite(model, own, network)
    known = {name: tensor for name, tensor in constants.items() if name in network.constants}
    source.write(path, model, known)
    return OnnxSource.open(path)


def _rewrite(model: ModelProto, before: Network, after: Network) -> None:
    names = {node.made: node for node in before.nodes}
    first = [(next(filter(None, proto.output), ""), proto) for proto in model.graph.node]
    protos = {names[made].name: proto for made, proto in first if made in names}
    originals = {node.name: node for node in before.nodes}
    held = [proto for proto in model.graph.node if is_constant(proto) and proto.output[0] in after.constants]
    nodes = [_copied(proto) for proto in held]
    for node in after.nodes:
        original = originals.get(node.name)
        if original == node:
            nodes.append(_copied(protos[node.name]))
        else:
            nodes.append(_made(node, original, protos.get(node.name)))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in after.constants]:
        model.graph.initializer.remove(tensor)
    for held in [held for held in model.graph.input if held.name in before.constants - after.constants]:
        model.graph.input.remove(held)  # files of old list their constants as inputs too
    for name in sorted(after.constants - before.constants):
        model.graph.initializer.append(TensorProto(name=name))


def _copied(proto: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(proto)
    return copy


def _made(node: Node, original: Node | None, proto: NodeProto | None) -> NodeProto:
    made = NodeProto(op_type=node.op, name=node.name, domain=node.domain)
    made.input.extend(node.inputs)
    made.output.extend(node.outputs)
    kept = {} if proto is None else {attribute.name: attribute for attribute in proto.attribute}
    for key, value in node.attributes.items():
        if original is not None and key in kept and original.attributes.get(key) == value:
            made.attribute.append(kept[key])
        else:
            made.attribute.append(helper.make_attribute(key, list(value) if isinstance(value, tuple) else value))
    return made
