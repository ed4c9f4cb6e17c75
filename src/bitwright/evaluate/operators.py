"""Which operators an engine ran in integers, which stayed float, and why, as far as that can be told.

The engine's own optimised graph is read, not the file: there a convolution between quantizers has either become an
integer operator, or its DequantizeLinear is still in front of it. An operator that only moves numbers ran in integers
if what it read was in codes. For one that stayed float the reason is found around it: the engine lacks an integer form;
nothing that it reads is quantized; or it is, and the engine did not fuse the quantizers, most often because the
output is not quantized.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import final

from bitwright.execute.onnx_profile import Executed

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
INTEGER = frozenset(
    {
        "ConvInteger",
        "MatMulInteger",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
        "MatMulNBits",
        "GatherBlockQuantized",
        "QGemm",
        "QAttention",
        "QEmbedLayerNormalization",
        "QMoE",
    }
)
LINEAR = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
FUSED = {
    "FusedConv": "Conv",
    "NhwcFusedConv": "Conv",
    "FusedMatMul": "MatMul",
    "FusedGemm": "Gemm",
    "FusedMatMulActivation": "MatMul",
}
HAS_INTEGER_FORM = frozenset(
    {"Conv", "MatMul", "Gemm", "Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat", "Sigmoid", "LeakyRelu"}
    | {"Softmax", "Where", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Gather", "Resize"}
    | {"ReduceMax", "ReduceMin", "Split", "Slice", "Expand", "Relu", "Clip"}
)
CODES = frozenset({"int8", "uint8", "int4", "uint4"})
FLOAT8 = (("Float8E4M3FN",), ("Float8E5M2",))  # what an operator reads first
FLOATS = frozenset({"float", "float16", "bfloat16", "double"})
CONTAINERS = frozenset({"If", "Loop", "Scan"})  # their time is that of the nodes inside

OPENVINO_QUANTIZERS = frozenset({"FakeQuantize", "Quantize", "Convert"})
OPENVINO_LAYOUT = frozenset({"Reorder", "Reshape", "Transpose", "ShapeOf"})
OPENVINO_LINEAR = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})


class Kind(Enum):
    """How an operator ran; the value is how reports spell it."""

    INTEGER = "integer"
    FLOAT = "float"
    QUANTIZER = "quantizer"  # changes between the two
    OTHER = "other"  # shapes and indices, neither of the two
    IDLE = "idle"  # did not run on the sample, such as a branch that was not taken


@final
@dataclass(frozen=True, slots=True)
class Operator:
    """One operator as it ran. `op`: the engine's name for it. `reason`: why it stayed float, else "".

    `is_linear`: a convolution or matrix product, which is where the time of a network goes. `is_unfused`: its inputs
    are quantized, and it ran in float nonetheless.
    """

    name: str
    op: str
    kind: Kind
    reason: str
    microseconds: float
    is_linear: bool = False
    is_unfused: bool = False
    is_signed: bool = False  # what it reads is signed: in integers, or in the file where it stayed float


def operators_of(nodes: Sequence[Executed], file_types: frozenset[str] = frozenset()) -> tuple[Operator, ...]:
    """Every operator of ONNX Runtime's optimised graph, in its order. `file_types`: of the codes in the file itself."""
    surroundings = _Surroundings(nodes, file_types)
    return tuple(surroundings.operator(node) for node in nodes)


def openvino_operators(nodes: Sequence[Executed]) -> tuple[Operator, ...]:
    """Every operator of OpenVINO's graph. It says in which type each computes, and not why."""
    return tuple(_openvino_operator(node) for node in nodes)


def _openvino_operator(node: Executed) -> Operator:
    if node.op in OPENVINO_QUANTIZERS:
        kind = Kind.QUANTIZER
    elif node.op in OPENVINO_LAYOUT:
        kind = Kind.OTHER
    elif node.reads[0] in CODES:
        kind = Kind.INTEGER
    else:
        kind = Kind.FLOAT if node.reads[0] in FLOATS else Kind.OTHER
    reason = f"OpenVINO computes it in {node.reads[0]}" if kind is Kind.FLOAT else ""
    return Operator(node.name, node.op, kind, reason, node.microseconds, node.op in OPENVINO_LINEAR)


class _Surroundings:
    """The nodes with who makes and who reads each value."""

    def __init__(self, nodes: Sequence[Executed], file_types: frozenset[str]) -> None:
        self.is_signed = file_types == {"int8"}
        self.makers = {value: node for node in nodes for value in node.outputs if value}
        self.readers: dict[str, list[Executed]] = {}
        for node in nodes:
            for value in node.inputs:
                self.readers.setdefault(value, []).append(node)
        self.rescaling = self._rescaling(nodes)

    def operator(self, node: Executed) -> Operator:
        kind = Kind.QUANTIZER if node.outputs[0] in self.rescaling else _kind(node)
        reason, is_unfused = self._why(node) if kind is Kind.FLOAT else ("", False)
        is_signed = self.is_signed if is_unfused else kind is Kind.INTEGER and node.reads[:1] == ("int8",)
        return Operator(
            name=node.name,
            op=node.op,
            kind=kind,
            reason=reason,
            microseconds=node.microseconds,
            is_linear=_is_linear(node.op),
            is_unfused=is_unfused,
            is_signed=is_signed,
        )

    def _why(self, node: Executed) -> tuple[str, bool]:
        """Why a node stayed float, and whether it is quantized in the file."""
        op = FUSED.get(node.op, node.op)
        place = f"inside the subgraph of {node.inside}; " if node.inside else ""
        if op not in HAS_INTEGER_FORM:
            return f"{place}ONNX Runtime has no integer {op}", False
        reads = [name for name in (node.inputs[:2] if op in LINEAR else node.inputs) if name]
        quantized = [name for name in reads if self._is_dequantized(name)]
        if any(self.makers[name].reads[:1] in FLOAT8 for name in quantized):
            return f"{place}simulated: ONNX Runtime computes products of 8-bit floats in float32", False
        if not quantized:
            return f"{place}nothing that it reads is quantized", False
        if op in LINEAR and len(quantized) < len(reads):
            part = "weight" if self._is_stored(quantized[0]) else "activation"
            return f"{place}only its {part} is quantized", False
        if len(quantized) < len(reads) and op in ("Add", "Mul", "Concat", "Where"):
            return f"{place}only part of what it reads is quantized: {', '.join(quantized)}", False
        if not any(reader.op == "QuantizeLinear" for name in node.outputs for reader in self.readers.get(name, ())):
            return f"{place}quantizers not fused: its inputs are dequantized, but its output is not quantized", True
        types = self._types(node, reads)
        if len(types) > 1 and self.is_signed:
            return f"{place}quantizers not fused: ONNX Runtime made only some of the file's int8 codes unsigned", True
        if len(types) > 1:
            return f"{place}quantizers not fused: their codes are {' and '.join(types)}; quantize to one type", True
        return f"{place}quantizers not fused: it is quantized on both sides, in a form that the engine lacks", True

    def _types(self, node: Executed, reads: Sequence[str]) -> list[str]:
        """The types of the codes of a node's activations. ONNX Runtime may change some signed ones to unsigned."""
        before = [self.makers[name] for name in reads if self._is_dequantized(name) and not self._is_stored(name)]
        after = [reader for name in node.outputs for reader in self.readers.get(name, ())]
        quantizers = [one for one in after if one.op == "QuantizeLinear"]
        return sorted(
            {*(one.reads[0] for one in before if one.reads), *(kind for one in quantizers for kind in one.makes)}
        )

    def _rescaling(self, nodes: Sequence[Executed]) -> set[str]:
        """The values that take the sums of an integer operator back to float, where scales are found on the run."""
        sums, steps, found = set(), set(), set()
        for node in nodes:
            makers = [self.makers[name].op for name in node.inputs if name in self.makers]
            if node.op == "Cast" and node.reads[:1] == ("int32",) and any(is_integer(op) for op in makers):
                sums.add(node.outputs[0])
            elif node.op == "Mul" and "DynamicQuantizeLinear" in makers:
                steps.add(node.outputs[0])
            elif node.op == "Mul" and sums & set(node.inputs) and steps & set(node.inputs):
                found.add(node.outputs[0])
        return sums | steps | found

    def _is_dequantized(self, value: str) -> bool:
        return value in self.makers and self.makers[value].op == "DequantizeLinear"

    def _is_stored(self, value: str) -> bool:
        """Whether a dequantized value comes from a constant: nothing in the graph makes its codes."""
        return self.makers[value].inputs[0] not in self.makers


def _kind(node: Executed) -> Kind:
    if not node.makes and not node.reads:
        return Kind.IDLE
    if node.op in QUANTIZERS:
        return Kind.QUANTIZER
    if node.op in CONTAINERS:
        return Kind.OTHER
    if is_integer(node.op):
        return Kind.INTEGER
    if any(made in FLOATS for made in node.makes):
        return Kind.FLOAT
    if node.reads and node.reads[0] in CODES and any(made in CODES for made in node.makes):
        return Kind.INTEGER
    return Kind.OTHER


def is_integer(op: str) -> bool:
    """Whether an operator of this name works on integers, whatever it hands out."""
    return op in INTEGER or op.startswith("QLinear")


def _is_linear(op: str) -> bool:
    return (
        FUSED.get(op, op) in LINEAR
        or (op in INTEGER and op != "GatherBlockQuantized")
        or op == "QLinearConv"
        or (op == "QLinearMatMul")
    )


def count(operators: Sequence[Operator]) -> dict[str, dict[str, int]]:
    """How many of each operator ran in which way: kind -> operator -> number."""
    found: dict[str, dict[str, int]] = {}
    for one in operators:
        row = found.setdefault(one.kind.value, {})
        row[one.op] = row.get(one.op, 0) + 1
    return found


def causes(operators: Sequence[Operator], original: Sequence[Operator]) -> Iterator[str]:
    """What in the profiles may make a quantized file slow, most telling first.

    `original`: those of the float file. A share is of the time of all operators.
    """
    total = sum(one.microseconds for one in operators) or 1.0
    linear = [one for one in operators if one.is_linear and one.kind in (Kind.INTEGER, Kind.FLOAT)]
    unfused = [one for one in linear if one.is_unfused]
    if not any(one.kind is Kind.INTEGER for one in linear):
        yield "no convolution or matrix product runs in integers"
    elif unfused:
        yield (
            f"quantizers not fused: {len(unfused)} of {len(linear)} convolutions and matrix products run in float, "
            f"their weights and inputs dequantized on every run ({_some(unfused)})"
        )
    quantizing = sum(one.microseconds for one in operators if one.kind is Kind.QUANTIZER)
    if quantizing > total / 5:
        yield f"{quantizing / total:.0%} of the time goes into quantizing and dequantizing"
    ours = sum(one.microseconds for one in linear)
    theirs = sum(one.microseconds for one in original if one.is_linear)
    if ours > theirs > 0:
        yield (
            f"its convolutions and matrix products take {ours / 1e3:.3g} ms, those of the float file "
            f"{theirs / 1e3:.3g} ms"
        )
    moving = [one for one in operators if one.kind is Kind.INTEGER and not one.is_linear]
    if sum(one.microseconds for one in moving) > total / 3:
        share = sum(one.microseconds for one in moving) / total
        yield f"{share:.0%} of the time goes into operators that are bound by memory ({_some(moving)})"


def openvino_causes(operators: Sequence[Operator]) -> Iterator[str]:
    """What in OpenVINO's graph, which is not timed, may make a quantized file slow."""
    linear = [one for one in operators if one.is_linear]
    floats = [one for one in linear if one.kind is Kind.FLOAT]
    if floats:
        yield f"{len(floats)} of {len(linear)} convolutions and matrix products run in float ({_some(floats)})"
    changing = sum(one.kind is Kind.QUANTIZER for one in operators)
    if changing:
        yield f"{changing} of {len(operators)} operators change between integers and float"


def _some(operators: Sequence[Operator]) -> str:
    names = [f"{one.op} {one.name}".strip() for one in operators[:3]]
    return ", ".join(names) + (f" and {len(operators) - 3} more" if len(operators) > 3 else "")
