"""Puts quantizers into an ONNX graph and leaves all else as it was.

A constant in codes goes through DequantizeLinear, whose output takes the constant's name: its readers stay untouched.
A value that passes through codes keeps its name too, behind the pair of QuantizeLinear and DequantizeLinear; what makes
it now makes `NAME.float`. Only where the float value has to stay (an input of the network, a value that float operators
read as well) are the readers in integers pointed to `NAME.dequantized` instead.

ONNX Runtime does not leave it at that: between quantizers it gives float convolutions and Gemms weights in codes, too,
with one scale for a whole weight. It does so only where the input has one scale. So these operators get a
DequantizeLinear of their own with the same scale once for each channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Shaped
from onnx import helper
from torch import Tensor

from bitwright.export.onnx_draft import OnnxDraft
from bitwright.graph.linear_node import linear_of
from bitwright.numerics import Float8, Int, Spec
from bitwright.store.quantized import QuantizedNetwork, StoredPoint, StoredWeight, bias_codes

OPSET_FLOAT8 = 19
# Float operators whose weights an engine rounds of its own accord.
ROUNDED_BY_ENGINE = {"ONNX Runtime": ("Conv", "ConvTranspose", "Gemm")}


class QdqGraph:
    """A model in the making."""

    def __init__(self, quantized: QuantizedNetwork) -> None:
        self.quantized = quantized
        self.draft = OnnxDraft(quantized.source)
        self._scales: dict[str, tuple[str, str]] = {}
        self._codes: dict[str, tuple[str, StoredPoint]] = {}  # by the value that is made of them

    def build(self) -> OnnxDraft:
        """The graph with all quantizers in it."""
        for weight in self.quantized.weights.values():
            self._add_weight(weight)
        for node, (bias, steps) in self.quantized.biased().items():
            self._add_bias(node, bias, steps)
        for point in self.quantized.points.values():
            self._add_point(point)
        self._guard_floats()
        if any(not weight.is_integer for weight in self.quantized.weights.values()):
            self.draft.raise_opset(OPSET_FLOAT8)
        return self.draft

    def _add_weight(self, weight: StoredWeight) -> None:
        steps = weight.scale if weight.scale.numel() > 1 else weight.scale.reshape(())
        parts = {"codes": _typed(weight.shaped(weight.qtensor.codes), weight.qtensor.spec), "scale": steps}
        if weight.is_integer:  # ONNX Runtime fuses no Gemm without it
            parts["zero"] = torch.zeros_like(steps, dtype=torch.int8)
        inputs = [self.draft.store(f"{weight.name}.{part}", tensor) for part, tensor in parts.items()]
        axis = {"axis": weight.axis} if weight.scale.numel() > 1 else {}
        self._add_constant(weight.name, weight.nodes, 1, inputs, axis)

    def _add_bias(self, node: str, bias: str, steps: Tensor) -> None:
        numbers = self.quantized.source.read([bias])[bias].reshape(-1)
        codes = self.draft.store(f"{bias}.codes", bias_codes(numbers, steps))
        scale = self.draft.store(f"{bias}.scale", steps if steps.numel() > 1 else steps.reshape(()))
        self._add_constant(bias, (node,), 2, [codes, scale], {"axis": 0} if steps.numel() > 1 else {})

    def _add_constant(
        self, name: str, nodes: Sequence[str], place: int, inputs: list[str], attributes: Mapping[str, int]
    ) -> None:
        """DequantizeLinear in the place of a constant, for these nodes, which read it at this input."""
        made = self.draft.stand_in(name, nodes, place)
        proto = helper.make_node("DequantizeLinear", inputs, [made], self.draft.fresh(f"{made}.dequantize"))
        proto.attribute.extend(helper.make_attribute(key, number) for key, number in attributes.items())
        first = next(node.name for node in self.draft.network.nodes if node.name in nodes)
        self.draft.before(first, proto)

    def _add_point(self, point: StoredPoint) -> None:
        value, draft = point.value, self.draft
        scale, zero = self._scale(point)
        if point.readers is None:
            source, made = draft.fresh(f"{value}.float"), value
            producer = draft.maker(value)
            producer.output[list(producer.output).index(value)] = source
        else:
            source, made = value, draft.fresh(f"{value}.dequantized")
            for name in point.readers:
                proto = draft.proto(name)
                proto.input[:] = [made if given == value else given for given in proto.input]
        codes = draft.fresh(f"{value}.codes")
        self._codes[made] = codes, point
        to = helper.make_node("QuantizeLinear", [source, scale, zero], [codes], draft.fresh(f"{value}.quantize"))
        back = helper.make_node("DequantizeLinear", [codes, scale, zero], [made], draft.fresh(f"{made}.dequantize"))
        draft.after(value, to, back)

    def _guard_floats(self) -> None:
        """Keep the engine from rounding the weights of operators that stay float."""
        coded = {node for weight in self.quantized.weights.values() for node in weight.nodes}
        network, draft = self.draft.network, self.draft
        for node in network.nodes:
            linear = linear_of(network, node) if node.op in ROUNDED_BY_ENGINE.get(self.quantized.engine, ()) else None
            if linear is None or node.name in coded or draft.proto(node.name).input[0] not in self._codes:
                continue
            proto = draft.proto(node.name)
            codes, point = self._codes[proto.input[0]]
            assert point.params is not None
            step, zero = point.params.scale.reshape(()).float(), _zero(point)
            parts = {"steps": step.expand(linear.inputs), "zeros": zero.expand(linear.inputs)}
            stored = [draft.store(f"{node.name}.{name}", numbers.contiguous()) for name, numbers in parts.items()]
            made = draft.fresh(f"{proto.input[0]}.apart")
            proto.input[0] = made
            name = draft.fresh(f"{made}.dequantize")
            draft.before(node.name, helper.make_node("DequantizeLinear", [codes, *stored], [made], name, axis=1))

    def _scale(self, point: StoredPoint) -> tuple[str, str]:
        """The names of scale and zero of a point's group, stored once."""
        if point.group not in self._scales:
            assert point.params is not None
            self._scales[point.group] = (
                self.draft.store(f"{point.group}.step", point.params.scale.reshape(()).float()),
                self.draft.store(f"{point.group}.zero", _zero(point)),
            )
        return self._scales[point.group]


def _typed(codes: Shaped[Tensor, "..."], spec: Spec) -> Shaped[Tensor, "..."]:
    """Codes in the type in which the file holds them: 8-bit floats are kept as their bits elsewhere."""
    return codes.view(spec.format.kind.dtype) if isinstance(spec.format, Float8) else codes


def _zero(point: StoredPoint) -> Shaped[Tensor, ""]:
    """The zero of a point, whose type is that of the codes."""
    if isinstance(point.spec.format, Float8):
        return torch.zeros((), dtype=point.spec.format.kind.dtype)
    assert isinstance(point.spec.format, Int)
    return torch.tensor(point.zero, dtype=torch.int8 if point.spec.format.signed else torch.uint8)
