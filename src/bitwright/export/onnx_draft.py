"""An ONNX graph that is being changed for delivery; what is not named stays as the user wrote it, bit for bit.

New nodes go in front of a node, behind a value, or in the place of a node. A constant in another form gives its name to
what stands for it, so that its readers stay untouched; where others still read the constant itself, only the named
nodes are pointed elsewhere. Constants that nothing reads any more are taken out at the end. Then comes what engines do
faster in another arrangement (`arrange.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from bitwright.export.arrange import arrange
from bitwright.export.exporter import ExportError
from bitwright.export.raise_opset import raise_opset
from bitwright.graph.names import Names
from bitwright.graph.onnx import is_constant, reads_of
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.onnx_tensors import Stored


@final
class OnnxDraft:
    """A model in the making. `stored`: the tensors of new and replaced constants, to be written with it."""

    def __init__(self, source: OnnxSource) -> None:
        self._source = source
        self.model: ModelProto = source.model()
        self.network = source.network()
        self.stored: dict[str, Stored] = {}
        self.fresh = Names((*self.network.values, *self.network.constants)).fresh
        self._before: dict[str, list[NodeProto]] = {}  # by the first output of the node in front of which they go
        self._after: dict[str, list[NodeProto]] = {}  # by the value behind whose producer they go; inputs too
        self._instead: dict[str, list[NodeProto]] = {}  # by the name of the node whose place they take
        self._nodes = list(self.model.graph.node)
        names = {node.made: node.name for node in self.network.nodes}
        self._names = [
            names.get(next(filter(None, proto.output), ""), "") for proto in self._nodes
        ]  # "" for those that hold a constant
        self._protos = {name: proto for name, proto in zip(self._names, self._nodes, strict=True) if name}
        self._gone: set[str] = set()  # constants whose name something else has taken
        self._replaced: set[str] = set()  # constants that fewer nodes read than before

    def store(self, wanted: str, tensor: Stored) -> str:
        """The name of a new constant."""
        name = self.fresh(wanted)
        self.model.graph.initializer.append(TensorProto(name=name))
        self.stored[name] = tensor
        return name

    def proto(self, node: str) -> NodeProto:
        """A node of the user's graph, to change."""
        found: NodeProto = self._protos[node]
        return found

    def maker(self, value: str) -> NodeProto:
        """The node that makes a value, to change."""
        return self.proto(self.network.producers[value].name)

    def before(self, node: str, *protos: NodeProto) -> None:
        """Put nodes in front of a node."""
        self._before.setdefault(self._first_output(node), []).extend(protos)

    def after(self, value: str, *protos: NodeProto) -> None:
        """Put nodes behind what makes a value; before all nodes for an input."""
        self._after.setdefault(value, []).extend(protos)

    def replace(self, node: str, protos: Sequence[NodeProto]) -> None:
        """Put nodes in the place of a node; what it alone read of the constants is taken out."""
        self._instead[node] = list(protos)
        self._replaced.update(name for name in self._protos[node].input if name in self.network.constants)

    def stand_in(self, constant: str, nodes: Sequence[str], place: int) -> str:
        """The name under which these nodes, which read a constant at that input, will find what stands for it."""
        others = [node for node, _ in self.network.readers(constant) if node.name not in nodes]
        if not others and constant not in self.network.outputs:
            self._gone.add(constant)
            return constant
        self._replaced.add(constant)
        made = self.fresh(f"{constant}.dequantized")
        for node in nodes:
            self._protos[node].input[place] = made
        return made

    def use_domain(self, domain: str, version: int) -> None:
        """Say that the model uses operators of this domain."""
        if all(imported.domain != domain for imported in self.model.opset_import):
            self.model.opset_import.add(domain=domain, version=version)

    def raise_opset(self, opset: int) -> None:
        """Raise the model to at least this opset; ExportError where an operator's meaning changed."""
        raise_opset(self.model, opset, self.store)

    def write(self, path: Path) -> None:
        """Finish, and write the model to `path`; external data go beside it where the source keeps some.

        Raises ExportError if the ONNX checker rejects it.
        """
        self._source.write(path, self.finish(), self.stored)
        try:
            onnx.checker.check_model(str(path))
        except onnx.checker.ValidationError as error:
            raise ExportError(
                f"{path}: the ONNX checker rejects what was written: {error}; please report it"
            ) from error

    def finish(self) -> ModelProto:
        """The model, all nodes in running order, without the constants that nothing reads any more."""
        known = {node.name: node for node in self.network.nodes}
        nodes = [added for name in self.network.inputs for added in self._after.get(name, [])]
        for name, proto in zip(self._names, self._nodes, strict=True):
            outputs = known[name].outputs if name else ()
            nodes += self._before.get(known[name].made, []) if name else []
            nodes += self._instead.get(name, [proto])
            nodes += [added for output in outputs for added in self._after.get(output, [])]
        read = {name for proto in nodes for name in reads_of(proto)} | set(self.network.outputs)
        gone = self._gone | (self._replaced - read)
        copies = [NodeProto.FromString(p.SerializeToString()) for p in nodes if not _holds(p, gone)]
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(copies)
        for held in [held for held in (*graph.initializer, *graph.input) if held.name in gone]:
            (graph.initializer if isinstance(held, TensorProto) else graph.input).remove(held)
        arrange(self.model, self._source)
        return self.model

    def _first_output(self, node: str) -> str:
        return next(one for one in self.network.nodes if one.name == node).made


def _holds(node: NodeProto, names: set[str]) -> bool:
    """Whether a node only holds a constant of one of these names."""
    return is_constant(node) and node.output[0] in names
