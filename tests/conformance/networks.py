"""Small networks built by hand, under names that say nothing, and an independent way to run any `Network`.

`run` writes network and constants out as an ONNX model and executes it with onnx's own reference evaluator in float64,
so that an edit is judged by code that shares nothing with the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from bitwright.graph.network import Network
from bitwright.graph.onnx import network_of

FLOAT64 = TensorProto.DOUBLE


class Sketch:
    """Writes an ONNX graph line by line: `add(op, inputs) -> output name`, `weight(shape) -> constant name`."""

    def __init__(self, seed: int = 0, opset: int = 18) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.opset = opset
        self.nodes: list[Any] = []
        self.stored: dict[str, Tensor] = {}
        self.inputs: dict[str, list[Any]] = {}

    def input(self, *shape: int | str | None, name: str = "q") -> str:
        self.inputs[name] = list(shape)
        return name

    def weight(self, *shape: int, spread: bool = False) -> str:
        """Gaussian numbers; `spread`: rows of very different size, as batch normalization leaves them behind."""
        numbers = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        if spread:
            numbers *= torch.exp(2 * torch.randn(shape[0], *[1] * (len(shape) - 1), generator=self.generator).double())
        return self.constant(numbers)

    def constant(self, numbers: Tensor) -> str:
        name = f"k{len(self.stored)}"
        self.stored[name] = numbers
        return name

    def integers(self, *numbers: int) -> str:
        return self.constant(torch.tensor(numbers, dtype=torch.int64))

    def number(self, value: float) -> str:
        return self.constant(torch.tensor(value, dtype=torch.float64))

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"z{len(self.nodes)}" + ("" if i == 0 else f"_{i}") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[0]

    def conv(self, x: str, out: int, into: int, kernel: int = 1, **more: Any) -> str:
        """A convolution with bias, of size-preserving padding unless said otherwise."""
        groups = more.get("group", 1)
        more.setdefault("pads", [kernel // 2] * 4)
        weight = self.weight(out, into // groups, kernel, kernel, spread=True)
        return self.add("Conv", x, weight, self.weight(out), **more)

    def norm(self, x: str, channels: int) -> str:
        """A BatchNormalization with lively statistics, one gamma negative."""
        gamma = torch.rand(channels, generator=self.generator, dtype=torch.float64) + 0.5
        gamma[0] *= -1
        variance = torch.rand(channels, generator=self.generator, dtype=torch.float64) + 0.1
        rest = [self.constant(gamma), self.weight(channels), self.weight(channels), self.constant(variance)]
        return self.add("BatchNormalization", x, *rest, epsilon=1e-3)

    def done(self, *outputs: str) -> tuple[Network, dict[str, Tensor]]:
        made = [helper.make_tensor_value_info(name, FLOAT64, None) for name in outputs]
        return network_of(_model(self.nodes, self.inputs, self.stored, made, self.opset)), dict(self.stored)


def _model(nodes: Any, inputs: Mapping[str, Any], stored: Mapping[str, Tensor], outputs: Any, opset: int) -> Any:
    taken = [helper.make_tensor_value_info(name, FLOAT64, shape) for name, shape in inputs.items()]
    tensors = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in stored.items()]
    graph = helper.make_graph(nodes, "graph", taken, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model)
    return model


def doubled(constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floats as float64, everything else as it is."""
    return {name: t.double() if t.is_floating_point() else t for name, t in constants.items()}


def run(network: Network, constants: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The outputs of a network in float64, by onnx's reference evaluator."""
    nodes = [
        helper.make_node(node.op, node.inputs, node.outputs, name=node.name, domain=node.domain, **node.attributes)
        for node in network.nodes
    ]
    stored = {name: tensor for name, tensor in doubled(constants).items() if name in network.constants}
    assert stored.keys() == network.constants
    outputs = [helper.make_tensor_value_info(name, FLOAT64, None) for name in network.outputs]
    shapes = {name: list(x.shape) for name, x in inputs.items()}
    model = _model(nodes, shapes, stored, outputs, network.opset)
    found = ReferenceEvaluator(model).run(None, {name: x.double().numpy() for name, x in inputs.items()})
    return [torch.from_numpy(numpy.array(array)) for array in found]


def evaluate(nodes: Any, values: Mapping[str, Tensor], wanted: Any) -> dict[str, Tensor]:
    """Any values that these nodes make, in float64, by onnx's reference evaluator; for code that asks for a runner."""
    written = [helper.make_node(node.op, node.inputs, node.outputs, **node.attributes) for node in nodes]
    made = [helper.make_tensor_value_info(name, FLOAT64, None) for name in wanted]
    graph = helper.make_graph(
        written, "graph", [], made, [numpy_helper.from_array(x.numpy(), name) for name, x in doubled(values).items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return {
        name: torch.from_numpy(numpy.array(x))
        for name, x in zip(wanted, ReferenceEvaluator(model).run(None, {}), strict=True)
    }


def moved(before: list[Tensor], after: list[Tensor]) -> float:
    """The largest change of any output, relative to the largest number of that output."""
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-300)) for a, b in zip(after, before, strict=True))


# The toy networks: each returns the network, its constants and one batch of inputs.

Toy = tuple[Network, dict[str, Tensor], dict[str, Tensor]]


def _inputs(sketch: Sketch, *shape: int) -> dict[str, Tensor]:
    return {"q": torch.randn(*shape, generator=sketch.generator, dtype=torch.float64)}


def plain() -> Toy:
    """conv, relu, conv."""
    s = Sketch(1)
    x = s.add("Relu", s.conv(s.input(None, 3, 6, 6), 8, 3, 3))
    return *s.done(s.conv(x, 4, 8, 3)), _inputs(s, 2, 3, 6, 6)


def depthwise(clip: bool = True) -> Toy:
    """Expand, depthwise, project, each but the last with ReLU6."""
    s = Sketch(2)
    bounds = (s.number(0.0), s.number(6.0))
    x = s.conv(s.input(None, 3, 6, 6), 8, 3)
    x = s.add("Clip", x, *bounds) if clip else s.add("Relu", x)
    x = s.conv(x, 8, 8, 3, group=8)
    x = s.add("Clip", x, *bounds) if clip else s.add("Relu", x)
    return *s.done(s.conv(x, 4, 8)), _inputs(s, 2, 3, 6, 6)


def residual() -> Toy:
    """A residual block between two convolutions: only the pair inside the block may be scaled."""
    s = Sketch(3)
    x = s.add("Relu", s.conv(s.input(None, 3, 6, 6), 8, 3, 3))
    inside = s.add("Relu", s.conv(x, 6, 8, 3))
    joined = s.add("Relu", s.add("Add", x, s.conv(inside, 8, 6, 3)))
    pooled = s.add("Flatten", s.add("GlobalAveragePool", joined))
    return *s.done(s.add("Gemm", pooled, s.weight(5, 8), s.weight(5), transB=1)), _inputs(s, 2, 3, 6, 6)


def grouped() -> Toy:
    """Grouped convolutions with 3 groups on either side, a channel multiplier, pooling and a flatten."""
    s = Sketch(4)
    x = s.add("LeakyRelu", s.conv(s.input(None, 6, 8, 8), 12, 6, 3, group=3), alpha=0.2)
    x = s.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = s.add("Relu", s.conv(x, 24, 12, 3, group=12))
    x = s.add("Relu", s.conv(x, 9, 24, 3, group=3))
    x = s.add("Flatten", s.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]))
    return *s.done(s.add("Gemm", x, s.weight(36, 5), s.weight(5))), _inputs(s, 2, 6, 8, 8)


def squeeze_excite() -> Toy:
    """A depthwise output that is gated by a small network of its own mean."""
    s = Sketch(5)
    x = s.add("Relu", s.conv(s.input(None, 3, 6, 6), 8, 3))
    small = s.add("Relu", s.conv(s.add("GlobalAveragePool", x), 4, 8))
    gate = s.add("HardSigmoid", s.conv(small, 8, 4))
    return *s.done(s.conv(s.add("Mul", x, gate), 4, 8)), _inputs(s, 2, 3, 6, 6)


def shuffled() -> Toy:
    """Channels are split, shuffled, padded and joined with a path from elsewhere before they are read."""
    s = Sketch(6)
    x = s.input(None, 4, 4, 4)
    y = s.add("Relu", s.conv(x, 6, 4))
    y = s.add("Reshape", y, s.integers(0, 2, 3, 4, 4))
    y = s.add("Reshape", s.add("Transpose", y, perm=[0, 2, 1, 3, 4]), s.integers(0, 6, 4, 4))
    part = s.add("Split", y, s.integers(2, 4), outputs=2, axis=1)
    y = s.add("Concat", f"{part}_1", s.add("Sigmoid", x), part, axis=1)
    y = s.add("Pad", y, s.integers(0, 1, 0, 0, 0, 0, 1, 1))
    y = s.add("Slice", y, s.integers(10), s.integers(-100), s.integers(1), s.integers(-1))
    return *s.done(s.conv(y, 3, 11, 3)), _inputs(s, 2, 4, 4, 4)


def transformer() -> Toy:
    """Two heads of attention and a gated feed-forward part, with layer normalization before each."""
    s = Sketch(7)
    x = s.input(None, None, 8)
    n = s.add("LayerNormalization", x, s.weight(8), s.weight(8), axis=-1)
    heads = []
    for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        y = s.add("Add", s.add("MatMul", n, s.weight(8, 8)), s.weight(8))
        heads.append(s.add("Transpose", s.add("Reshape", y, s.integers(0, -1, 2, 4)), perm=order))
    mixed = s.add("MatMul", s.add("Softmax", s.add("MatMul", *heads[:2]), axis=-1), heads[2])
    mixed = s.add("Reshape", s.add("Transpose", mixed, perm=[0, 2, 1, 3]), s.integers(0, -1, 8))
    x = s.add("Add", x, s.add("Add", s.add("MatMul", mixed, s.weight(8, 8)), s.weight(8)))
    size = s.add("ReduceMean", s.add("Mul", x, x), s.integers(-1))
    n = s.add("Mul", s.add("Div", x, s.add("Sqrt", size)), s.weight(8))
    gate, up = s.add("MatMul", n, s.weight(8, 12)), s.add("MatMul", n, s.weight(8, 12))
    product = s.add("Mul", s.add("Mul", gate, s.add("Sigmoid", gate)), up)
    return *s.done(s.add("Add", x, s.add("MatMul", product, s.weight(12, 8)))), _inputs(s, 2, 3, 8)


def normalized() -> Toy:
    """Convolutions with BatchNormalization, transposed convolutions, Gemm and MatMul; one cannot fold."""
    s = Sketch(8)
    x = s.input(None, 3, 6, 6)
    x = s.add("Relu", s.norm(s.add("Conv", x, s.weight(8, 3, 3, 3), pads=[1] * 4), 8))
    x = s.norm(x, 8)  # behind a ReLU: stays
    x = s.add("Relu", s.norm(s.conv(x, 8, 8, 3, group=8), 8))
    x = s.add("Relu", s.norm(s.add("ConvTranspose", x, s.weight(8, 6, 2, 2), strides=[2, 2]), 6))
    x = s.add("Flatten", s.add("GlobalAveragePool", x))
    x = s.add("Relu", s.norm(s.add("Gemm", x, s.weight(7, 6), s.number(0.3), transB=1, alpha=0.5, beta=2.0), 7))
    x = s.add("Relu", s.norm(s.add("MatMul", x, s.weight(7, 5)), 5))
    return *s.done(s.norm(s.add("Add", s.add("MatMul", x, s.weight(5, 4)), s.weight(4)), 4)), _inputs(s, 2, 3, 6, 6)


TOYS = (plain, depthwise, residual, grouped, squeeze_excite, shuffled, transformer, normalized)
