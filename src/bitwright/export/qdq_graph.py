"""Puts quantizers into an ONNX graph and leaves all else as it was.

A constant in codes goes through DequantizeLinear, whose output takes the constant's name: its readers stay untouched.
A value that passes through codes keeps its name too, behind the pair of QuantizeLinear and DequantizeLinear; what makes
it now makes `NAME.float`. Only where the float value has to stay (an input of the network, a value that float operators
read as well) are the readers in integers pointed to `NAME.dequantized` instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import Tensor

from bitwright.graph.onnx import is_constant
from bitwright.numerics import Int
from bitwright.store.quantized import QuantizedNetwork, StoredPoint, StoredWeight, bias_codes


class QdqGraph:
    """A model in the making. `stored`: the tensors of new and replaced constants, to be written with it."""

    def __init__(self, quantized: QuantizedNetwork) -> None:
        self.quantized = quantized
        self.model: ModelProto = quantized.source.model()
        self.network = quantized.source.network()
        self.stored: dict[str, Tensor] = {}
        self._taken = set(self.network.values) | self.network.constants
        self._before: dict[str, list[NodeProto]] = {}  # by the first output of the node in front of which they go
        self._after: dict[str, list[NodeProto]] = {}  # by the value behind whose producer they go; inputs too
        self._nodes = list(self.model.graph.node)
        names = {node.outputs[0]: node.name for node in self.network.nodes}
        self._names = [names.get(proto.output[0], "") for proto in self._nodes]  # "" for those that hold a constant
        self._protos = {name: proto for name, proto in zip(self._names, self._nodes, strict=True) if name}
        self._gone: set[str] = set()  # constants whose name a DequantizeLinear has taken
        self._replaced: set[str] = set()  # constants that fewer nodes read than before
        self._scales: dict[str, tuple[str, str]] = {}

    def build(self) -> ModelProto:
        """The model with all quantizers in it."""
        for weight in self.quantized.weights.values():
            self._add_weight(weight)
        for node, (bias, steps) in self.quantized.biased().items():
            self._add_bias(node, bias, steps)
        for point in self.quantized.points.values():
            self._add_point(point)
        self._finish()
        return self.model

    def _add_weight(self, weight: StoredWeight) -> None:
        spec = weight.qtensor.spec
        assert isinstance(spec.format, Int)
        codes, scale, zero = (self._fresh(f"{weight.name}.{part}") for part in ("codes", "scale", "zero"))
        steps = weight.scale if weight.scale.numel() > 1 else weight.scale.reshape(())
        self._store(codes, weight.shaped(weight.qtensor.codes))
        self._store(scale, steps)
        self._store(zero, torch.zeros_like(steps, dtype=torch.int8))  # ONNX Runtime fuses no Gemm without it
        axis = {"axis": weight.axis} if weight.scale.numel() > 1 else {}
        self._add_constant(weight.name, weight.nodes, 1, [codes, scale, zero], axis)

    def _add_bias(self, node: str, bias: str, steps: Tensor) -> None:
        codes, scale = self._fresh(f"{bias}.codes"), self._fresh(f"{bias}.scale")
        numbers = self.quantized.source.read([bias])[bias].reshape(-1)
        self._store(codes, bias_codes(numbers, steps))
        self._store(scale, steps if steps.numel() > 1 else steps.reshape(()))
        self._add_constant(bias, (node,), 2, [codes, scale], {"axis": 0} if steps.numel() > 1 else {})

    def _add_constant(
        self, name: str, nodes: Sequence[str], place: int, inputs: list[str], axis: Mapping[str, int]
    ) -> None:
        """DequantizeLinear in the place of a constant, for these nodes, which read it at this input."""
        others = [node for node, _ in self.network.readers(name) if node.name not in nodes]
        is_free = not others and name not in self.network.outputs
        made = name if is_free else self._fresh(f"{name}.dequantized")
        proto = helper.make_node("DequantizeLinear", inputs, [made], self._fresh(f"{made}.dequantize"))
        proto.attribute.extend(helper.make_attribute(key, number) for key, number in axis.items())
        first = next(node for node in self.network.nodes if node.name in nodes)
        self._before.setdefault(first.outputs[0], []).append(proto)
        if is_free:
            self._gone.add(name)
            return
        self._replaced.add(name)
        for node in nodes:
            self._protos[node].input[place] = made

    def _add_point(self, point: StoredPoint) -> None:
        value = point.value
        scale, zero = self._scale(point)
        if point.readers is None:
            source, made = self._fresh(f"{value}.float"), value
            producer = self._protos[self.network.producers[value].name]
            producer.output[list(producer.output).index(value)] = source
        else:
            source, made = value, self._fresh(f"{value}.dequantized")
            for name in point.readers:
                proto = self._protos[name]
                proto.input[:] = [made if given == value else given for given in proto.input]
        codes = self._fresh(f"{value}.codes")
        to = helper.make_node("QuantizeLinear", [source, scale, zero], [codes], self._fresh(f"{value}.quantize"))
        back = helper.make_node("DequantizeLinear", [codes, scale, zero], [made], self._fresh(f"{made}.dequantize"))
        self._after.setdefault(value, []).extend([to, back])

    def _scale(self, point: StoredPoint) -> tuple[str, str]:
        """The names of scale and zero of a point's group, stored once."""
        if point.group not in self._scales:
            assert isinstance(point.spec.format, Int)
            dtype = torch.int8 if point.spec.format.signed else torch.uint8
            names = self._fresh(f"{point.group}.step"), self._fresh(f"{point.group}.zero")
            self._store(names[0], point.params.scale.reshape(()).float())
            self._store(names[1], torch.tensor(point.zero, dtype=dtype))
            self._scales[point.group] = names
        return self._scales[point.group]

    def _store(self, name: str, tensor: Tensor) -> None:
        self.model.graph.initializer.append(TensorProto(name=name))
        self.stored[name] = tensor.contiguous()

    def _fresh(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name

    def _finish(self) -> None:
        """Put the new nodes into the running order, and take out the constants that nothing reads any more."""
        known = {node.name: node for node in self.network.nodes}
        nodes = [added for name in self.network.inputs for added in self._after.get(name, [])]
        for name, proto in zip(self._names, self._nodes, strict=True):
            outputs = known[name].outputs if name else ()
            nodes += self._before.get(outputs[0], []) if outputs else []
            nodes.append(proto)
            nodes += [added for output in outputs for added in self._after.get(output, [])]
        read = {name for proto in nodes for name in reads_of(proto)} | set(self.network.outputs)
        gone = self._gone | (self._replaced - read)
        copies = [NodeProto.FromString(p.SerializeToString()) for p in nodes if not _holds(p, gone)]
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(copies)
        for held in [held for held in (*graph.initializer, *graph.input) if held.name in gone]:
            (graph.initializer if isinstance(held, TensorProto) else graph.input).remove(held)


def _holds(node: NodeProto, names: set[str]) -> bool:
    """Whether a node only holds a constant of one of these names."""
    return is_constant(node) and node.output[0] in names


def reads_of(node: NodeProto) -> Iterator[str]:
    """Every name that a node or its subgraphs read; names that are only known inside do no harm."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from reads_of(inner)
