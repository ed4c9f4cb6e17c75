"""Puts quantizers into an ONNX graph and leaves all else as it was.

A constant in codes goes through DequantizeLinear, whose output takes the constant's name: its readers stay untouched.
A value that passes through codes keeps its name too, behind the pair of QuantizeLinear and DequantizeLinear; what makes
it now makes `NAME.float`. Only where the float value has to stay (an input of the network, a value that float operators
read as well) are the readers in integers pointed to `NAME.dequantized` instead.

Where a number is added to codes, or codes are multiplied by one, the number becomes a code of its own, exactly. Engines
with that have a hard gate, too: the codes of x taken for a line through zero (the slope goes into their scale), plus a
number, cut off by the ends of the codes.

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
from bitwright.export.onnx_recurrent import add_recurrent
from bitwright.export.onnx_tables import add_tables
from bitwright.graph.linear_node import linear_of
from bitwright.graph.network import Node
from bitwright.numerics import Float8, Int, Spec
from bitwright.store.quantized import QuantizedNetwork, StoredPoint, StoredWeight, bias_codes

OPSET_FLOAT8 = 19
NUMBER = 127  # the code of a number alone: not 1, whose scale could be too far from that of what it is added to
SLACK = torch.finfo(torch.float32).eps
CLAMPS = ("Relu", "Clip")
_ZERO = torch.zeros(())
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
        apart = add_recurrent(self.draft, self.quantized) | add_tables(self.draft, self.quantized)
        for name, weight in self.quantized.weights.items():
            if name not in apart:
                self._add_weight(weight)
        for reader, (bias, steps) in self.quantized.biased().items():
            self._add_bias(reader, bias, steps)
        for point in self.quantized.points.values():
            self._add_point(point)
        for node in self.draft.network.nodes:
            if node.name in self.quantized.integer and node.op in ("Add", "Mul"):
                self._add_number(node)
            elif node.name in self.quantized.integer and node.op == "HardSigmoid":
                self._add_gate(node)
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
        self._end_clip(point)
        self._hold_clamp(point)

    def _end_clip(self, point: StoredPoint) -> None:
        """Let a Clip end where the codes do, if that is not a step away: engines leave it out then.

        What it clips is rounded to the last code either way.
        """
        draft, node = self.draft, self.draft.network.producers.get(point.value)
        is_plain = isinstance(point.spec.format, Int) and point.params is not None
        if node is None or node.op != "Clip" or node.name not in self.quantized.integer or not is_plain:
            return
        assert isinstance(point.spec.format, Int) and point.params is not None
        proto, step = draft.proto(node.name), point.params.scale.reshape(()).float()
        for place, code in ((1, point.spec.format.low), (2, point.spec.format.high)):
            name = node.inputs[place] if len(node.inputs) > place else ""
            if name not in draft.network.constants:
                continue
            end = step * (code - point.zero)
            inside = float(self.quantized.source.read([name])[name]) - float(end)
            if 0 < (inside if place == 1 else -inside) < float(step):
                proto.input[place] = draft.store(f"{node.name}.end", end)

    def _hold_clamp(self, point: StoredPoint) -> None:
        """Spell a Relu or Clip before 8-bit floats as Max and Min.

        ONNX Runtime (1.32) leaves out a Relu there, as if such floats had no sign, and cannot open a file with a Clip.
        """
        draft, node = self.draft, self.draft.network.producers.get(point.value)
        if node is None or node.op not in CLAMPS or not isinstance(point.spec.format, Float8):
            return
        bounds = [*node.inputs[1:], "", ""][:2] if node.op == "Clip" else [draft.store(f"{node.name}.low", _ZERO), ""]
        proto, held = draft.proto(node.name), [op for op in zip(("Max", "Min"), bounds, strict=True) if op[1]]
        value = proto.input[0]
        for op, bound in held[:-1]:
            made = draft.fresh(f"{node.name}.{op}")
            draft.before(node.name, helper.make_node(op, [value, bound], [made], made))
            value = made
        proto.op_type, proto.input[:] = (held[-1][0], [value, held[-1][1]]) if held else ("Identity", [value])

    def _add_number(self, node: Node) -> None:
        """Put the constant number that codes are added to, or multiplied by, into codes."""
        places = [place for place, name in enumerate(node.inputs) if name in self.draft.network.constants]
        if len(places) != 1:
            return
        _, point = self._codes.get(self.draft.proto(node.name).input[1 - places[0]], ("", None))
        if point is None or not isinstance(point.spec.format, Int):
            return
        name = node.inputs[places[0]]
        number = float(self.quantized.source.read([name])[name].reshape(()))
        self._add_constant(name, (node.name,), places[0], self._number(name, number, point), {})

    def _add_gate(self, node: Node) -> None:
        """Make a sum in codes of a HardSigmoid, if the codes of what it makes end where it is cut."""
        draft, made = self.draft, self.quantized.points.get(node.made)
        proto = draft.proto(node.name)
        codes, point = self._codes.get(proto.input[0], ("", None))
        if made is None or point is None or point.params is None:
            return
        slope, offset = float(node.attributes.get("alpha", 0.2)), float(node.attributes.get("beta", 0.5))
        if not isinstance(made.spec.format, Int) or not isinstance(point.spec.format, Int):
            return
        is_cut = made.zero == made.spec.format.low and made.scale * (made.spec.format.high - made.zero) <= 1 + SLACK
        if not is_cut or slope <= 0:
            return
        scale = draft.store(f"{node.name}.slope", slope * point.params.scale.reshape(()).float())
        line, number = draft.fresh(f"{node.name}.line"), draft.fresh(f"{node.name}.number")
        stored = self._number(number, offset, point)
        held = [codes, scale, self._scale(point)[1]], stored
        for inputs, name in zip(held, (line, number), strict=True):
            draft.before(node.name, helper.make_node("DequantizeLinear", inputs, [name], f"{name}.dequantize"))
        proto.op_type = "Add"
        del proto.attribute[:]
        proto.input[:] = [line, number]

    def _number(self, name: str, number: float, beside: StoredPoint) -> list[str]:
        """The names of code, scale and zero of a number that meets the codes of a point.

        It has as many axes as they have: ONNX Runtime is up to 50 times slower where axes of length 1 meet none.
        """
        assert isinstance(beside.spec.format, Int)
        shape = self.draft.network.values[beside.value].shape or ()
        code = 0 if number == 0 else NUMBER if number > 0 else -NUMBER
        zero = 0 if beside.spec.format.signed or code >= 0 else NUMBER
        dtype = torch.int8 if beside.spec.format.signed else torch.uint8
        parts = {
            "code": torch.full([1] * len(shape), code + zero, dtype=dtype),
            "scale": torch.tensor(abs(number) / NUMBER if number else 1.0),
            "zero": torch.tensor(zero, dtype=dtype),
        }
        return [self.draft.store(f"{name}.{part}", tensor) for part, tensor in parts.items()]

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
