"""A finished ONNX graph to look around in and to rearrange: who makes a value, who reads it, what a constant is."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from onnx import ModelProto, NodeProto, numpy_helper

from bitwright.graph.names import Names
from bitwright.graph.onnx import is_constant, opset_of, reads_of
from bitwright.store.onnx_source import OnnxSource

OWN = ("", "ai.onnx")


@final
class ProtoGraph:
    """The main graph of a model that was made from `source`; edits are made in place, its nodes stay in running order.

    Values inside subgraphs are not seen; that a subgraph reads an outer value is.
    """

    def __init__(self, model: ModelProto, source: OnnxSource) -> None:
        self.graph, self.opset = model.graph, opset_of(model)
        self._source, self._network = source, source.network()
        self._outputs = {value.name for value in self.graph.output}
        self.makers: dict[str, NodeProto] = {}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self.graph.node:
            self.makers.update((name, node) for name in node.output if name)
            for name in dict.fromkeys(reads_of(node)):
                self._readers.setdefault(name, []).append(node)
        held = {value.name for value in (*self.graph.input, *self.graph.initializer)}
        self.fresh = Names((*held, *self.makers, *self._readers, *self._network.values)).fresh

    def made_by(self, value: str, op: str) -> NodeProto | None:
        """The node that makes a value, if it is this operator of the ONNX standard."""
        node = self.makers.get(value)
        return node if node is not None and is_own(node, op) else None

    def readers(self, value: str) -> list[NodeProto]:
        """Every node that reads a value, itself or in a subgraph; each once."""
        return self._readers.get(value, [])

    def only_reader(self, value: str) -> NodeProto | None:
        """The node that alone reads a value; None where there are more or none, or where the model hands it out."""
        found = self.readers(value)
        return found[0] if len(found) == 1 and value not in self._outputs else None

    def is_output(self, value: str) -> bool:
        """Whether the model hands a value out."""
        return value in self._outputs

    def rank(self, value: str) -> int | None:
        """How many axes a value of the source has; None where that is not known."""
        known = self._network.values.get(value)
        return None if known is None or known.shape is None else len(known.shape)

    def number(self, name: str) -> float | None:
        """The number that a constant of the source with a single element holds; None for all else, codes included."""
        made = self.makers.get(name)
        if name not in self._network.constants or (made is not None and not is_constant(made)):
            return None
        shape = self._network.values[name].shape
        if shape is None or any(size != 1 for size in shape):
            return None
        found = self._source.read([name])[name]
        return float(found.reshape(())) if found.dtype != torch.bool else None

    def index(self, wanted: str, number: int) -> str:
        """The name of a new constant: a list of one whole number."""
        name = self.fresh(wanted)
        self.graph.initializer.append(numpy_helper.from_array(np.array([number], dtype=np.int64), name))
        return name

    def before(self, node: NodeProto, added: NodeProto) -> None:
        """Put a new node in front of a node."""
        place = next(i for i, one in enumerate(self.graph.node) if one.output[0] == node.output[0])
        self.graph.node.insert(place, added)


def is_own(node: NodeProto, op: str) -> bool:
    """Whether a node is this operator of the ONNX standard."""
    return bool(node.op_type == op and node.domain in OWN)
