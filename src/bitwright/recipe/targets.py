"""What the engines that run quantized networks want: types of weights and activations, and which operators they have.

A target is a table, not code. It follows what the engine's kernels take: ONNX Runtime (`x86-vnni`, `x86-avx2`, `arm`)
multiplies unsigned activations with signed weights on x86, needs every integer operator's output quantized too, except
that of a matrix product, and has lookup tables for a few curves. Without VNNI two products are added in 16 bits, which
overflow unless weights use 7 bits (`x86-avx2`, `openvino-avx2`). TensorRT wants symmetric signed activations; it and
OpenVINO fuse more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import final

from bitwright.numerics import PER_TENSOR, Arithmetic, Int, Scaling, Spec
from bitwright.numerics.machine import Machine


class Role(Enum):
    """What an operator is to quantization; the value is how reports spell it."""

    LINEAR = "linear"  # a constant weight times an activation
    PRODUCT = "product"  # one activation times another
    RECURRENT = "recurrent"  # constant weights times an activation and a state, which are put into codes step by step
    TABLE = "table"  # rows of a constant matrix, picked by number; they become floats as they are picked
    BLEND = "blend"  # a sum or product element by element, on a scale of its own
    AVERAGE = "average"  # a mean over positions, on a scale of its own
    JOIN = "join"  # parts put side by side
    MOVE = "move"  # the same numbers elsewhere, so the same scale
    CLAMP = "clamp"  # part of the range of what it reads
    CURVE = "curve"  # a function of one number, by table
    FLOAT = "float"  # no integer form


LINEAR = frozenset({"Conv", "Gemm", "MatMul"})
MOVES = frozenset(
    {
        "Identity",
        "MaxPool",
        "ReduceMax",
        "ReduceMin",
        "Resize",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Slice",
        "Split",
        "Gather",
        "GatherElements",
        "Expand",
        "Tile",
    }
)
CLAMPS = frozenset({"Relu", "Clip"})
APART = frozenset({Role.RECURRENT, Role.TABLE})  # weights in codes, floats in and out: no part of a run of integers


@final
@dataclass(frozen=True, slots=True)
class Target:
    """An engine on a kind of machine. `needs_output`: operators that stay float unless their output is quantized.

    `arithmetic`: how it computes with codes. `weight_bits`: what the integer units take without overflow.
    `joins_share`: parts of a Concat must have one scale. `has_dynamic`: whether activations can be quantized by ranges
    that are found as the network runs, `runs_dynamic` whether it then multiplies integers. `fuses_sums`: a
    convolution's output is added to another value before it is rounded, so that it is no value in codes.
    `pads_with_zero`: means that count their padding pad with the code of 0.0. `without_vnni`: the target in its place
    for x86 processors without VNNI, where its sums of products may overflow.
    `signs_factors`: activations are multiplied with each other only if neither has a zero and the second is signed.
    `least_group`: convolutions in groups of fewer input channels run faster in float, but for depthwise ones.
    `blends_numbers`: one operand of a sum or product may be a constant number. `recurrent`: operators that it runs with
    weights in codes and activations whose ranges it finds at each step. `has_tables`: rows of constants in codes can be
    picked. `splits_slopes`: PRelu is faster in parts.
    """

    name: str
    engine: str
    arithmetic: Arithmetic
    is_signed: bool = False
    has_zero: bool = True
    weight_bits: int = 8
    joins_share: bool = False
    fuses_sums: bool = False
    pads_with_zero: bool = True
    signs_factors: bool = False
    least_group: int = 1
    blends_numbers: bool = False
    splits_slopes: bool = False
    has_tables: bool = True
    has_dynamic: bool = True
    runs_dynamic: bool = True
    without_vnni: str | None = None
    linear: frozenset[str] = LINEAR
    recurrent: frozenset[str] = frozenset()
    curves: frozenset[str] = frozenset({"Sigmoid", "LeakyRelu", "HardSigmoid"})
    averages: frozenset[str] = frozenset({"AveragePool", "GlobalAveragePool"})
    needs_output: frozenset[Role] = frozenset({Role.BLEND, Role.AVERAGE, Role.JOIN, Role.CURVE})
    needs_output_ops: frozenset[str] = frozenset({"Conv"})

    def activation(self, bits: int = 8) -> Spec:
        """How activations are stored: one scale per tensor, and a zero where the engine takes one."""
        form = Int(bits, signed=self.is_signed)
        return Spec(form, PER_TENSOR, zero=Spec(form) if self.has_zero else None)


_FUSED = frozenset({Role.BLEND, Role.JOIN})
_BY_FACTOR = Arithmetic(products=Scaling.MULTIPLY, blends=Scaling.MULTIPLY)
_BY_SHIFT = Arithmetic(products=Scaling.MULTIPLY, blends=Scaling.SHIFT)
_IN_FLOAT = Arithmetic(products=Scaling.FLOAT, blends=Scaling.FLOAT)

# Its integer kernel multiplies one small matrix for each group: 2.5 times as slow as float with groups of 4 channels,
# 10 times with one channel that makes two, as fast from 8 channels on (measured with VNNI).
_ORT = Target(
    "",
    "ONNX Runtime",
    _BY_FACTOR,
    least_group=8,
    blends_numbers=True,
    splits_slopes=True,
    recurrent=frozenset({"LSTM"}),
)

_OPENVINO = Target(
    "openvino",
    "OpenVINO",
    _IN_FLOAT,
    joins_share=True,
    pads_with_zero=False,
    fuses_sums=True,
    signs_factors=True,
    runs_dynamic=False,
    without_vnni="openvino-avx2",
    linear=LINEAR | {"ConvTranspose"},
    curves=frozenset(),
    needs_output=_FUSED,
    needs_output_ops=frozenset(),
)

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        replace(_ORT, name="x86-vnni", without_vnni="x86-avx2"),
        replace(_ORT, name="x86-avx2", arithmetic=replace(_BY_FACTOR, saturates=True), weight_bits=7),
        replace(_ORT, name="arm", arithmetic=_BY_SHIFT, is_signed=True),
        Target(
            "tensorrt",
            "TensorRT",
            _IN_FLOAT,
            is_signed=True,
            has_zero=False,
            joins_share=True,
            fuses_sums=True,
            has_tables=False,
            has_dynamic=False,
            linear=LINEAR | {"ConvTranspose"},
            curves=frozenset(),
            needs_output=_FUSED,
            needs_output_ops=frozenset(),
        ),
        _OPENVINO,
        replace(_OPENVINO, name="openvino-avx2", weight_bits=7, without_vnni=None),
    )
}


def find_target(name: str) -> Target:
    """The target of this name; ValueError lists those there are."""
    if name not in TARGETS:
        raise ValueError(f"{name!r} is no target; choose one of {', '.join(TARGETS)}")
    return TARGETS[name]


def suited(name: str, machine: Machine) -> str:
    """The name of this target, or of the one in its place on an x86 machine without VNNI."""
    target = find_target(name)
    is_without = machine.is_x86 and machine.has_vnni is False
    return target.without_vnni if is_without and target.without_vnni is not None else target.name
