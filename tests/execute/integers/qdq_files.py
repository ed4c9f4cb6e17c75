"""Random QDQ files of one operator, with inputs that reach the ends of the codes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

FLOAT = TensorProto.FLOAT


@dataclass
class QdqFile:
    """A file in the making. `codes` are those that its inputs quantize to."""

    seed: int
    is_signed: bool = False
    nodes: list[Any] = field(default_factory=list)
    stored: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    feeds: dict[str, Tensor] = field(default_factory=dict)
    codes: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.dtype = np.int8 if self.is_signed else np.uint8
        self.low, self.high = (-128, 127) if self.is_signed else (0, 255)

    def constant(self, array: Any) -> str:
        name = f"c{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def quantizers(self, value: str, scale: float, zero: int) -> str:
        """A pair of quantizers behind a value."""
        step, null = self.constant(np.float32(scale)), self.constant(self.dtype(zero))
        codes, made = f"{value}.codes", f"{value}.back"
        self.nodes.append(helper.make_node("QuantizeLinear", [value, step, null], [codes]))
        self.nodes.append(helper.make_node("DequantizeLinear", [codes, step, null], [made]))
        return made

    def input(self, shape: list[int]) -> tuple[str, np.float32]:
        """An input in codes, dequantized, and its step. Codes are spread, at both ends, or near the upper."""
        name, step = f"x{len(self.inputs)}", np.float32(self.rng.uniform(0.005, 0.1))
        zero = int(self.rng.integers(self.low, self.high + 1))
        drawn = [
            self.rng.integers(self.low, self.high + 1, shape),
            np.where(self.rng.random(shape) < 0.5, self.high, self.low),
            self.rng.integers(self.high - 40, self.high + 1, shape),
        ]
        self.codes[name] = drawn[int(self.rng.integers(3))]
        self.feeds[name] = torch.from_numpy(((self.codes[name] - zero) * step).astype(np.float32))
        self.inputs.append(helper.make_tensor_value_info(name, FLOAT, shape))
        return self.quantizers(name, float(step), zero), step

    def weight(self, codes: np.ndarray[Any, Any], axis: int) -> tuple[str, np.ndarray[Any, Any]]:
        """A weight in codes, dequantized, with a step for each place along the axis, or one for all."""
        is_split = bool(self.rng.random() < 0.7)
        shape: tuple[int, ...] = (codes.shape[axis],) if is_split else ()
        steps = np.asarray(self.rng.uniform(0.001, 0.02, shape), dtype=np.float32)
        stored = [self.constant(codes), self.constant(steps), self.constant(np.zeros(shape, np.int8))]
        place = {"axis": axis} if is_split else {}
        self.nodes.append(helper.make_node("DequantizeLinear", stored, ["weight"], **place))
        return "weight", steps

    def bias(self, channels: int, steps: np.ndarray[Any, Any]) -> str:
        codes = self.rng.integers(-20000, 20000, channels).astype(np.int32)
        place = {"axis": 0} if steps.ndim else {}
        stored = [self.constant(codes), self.constant(steps)]
        self.nodes.append(helper.make_node("DequantizeLinear", stored, ["bias"], **place))
        return "bias"

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, ["made"], op.lower(), **attributes))
        return "made"

    def output(self, name: str) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, FLOAT, None))

    def coded_output(self, value: str, scale: float) -> None:
        self.output(self.quantizers(value, scale, int(self.rng.integers(self.low, self.high + 1))))

    def save(self, path: Path) -> Path:
        graph = helper.make_graph(self.nodes, "one", self.inputs, self.outputs, self.stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, path)
        return path


def weight_codes(rng: np.random.Generator, shape: list[int]) -> np.ndarray[Any, Any]:
    """Codes of all sizes, of half the range, or at the ends, none the least: ARM's processors multiply it wrongly."""
    kind = int(rng.integers(3))
    if kind == 2:
        return rng.choice([-127, -126, 127, 100], shape).astype(np.int8)
    return rng.integers(-127 + 63 * kind, 128 - 64 * kind, shape).astype(np.int8)


def convolution(seed: int, is_signed: bool) -> QdqFile:
    made = QdqFile(seed, is_signed)
    rng = made.rng
    kind = ("plain", "aligned", "depthwise", "grouped")[seed % 4]
    groups = {"plain": 1, "aligned": 1, "depthwise": int(rng.integers(2, 40)), "grouped": int(rng.integers(2, 4))}[kind]
    each_in, each_out = int(rng.integers(1, 20)), int(rng.integers(1, 30))
    if kind == "aligned":
        each_in, each_out = 4 * int(rng.integers(1, 8)), 16 * int(rng.integers(1, 3))
    if kind == "depthwise":
        each_in = each_out = 1
    rank = 1 + seed // 4 % 2
    kernel = [int(size) for size in rng.integers(1, 4, rank)]
    x, step = made.input([2, each_in * groups, *(int(size) for size in rng.integers(6, 10, rank))])
    codes = weight_codes(rng, [each_out * groups, each_in, *kernel])
    weight, steps = made.weight(codes, 0)
    reads = [x, weight, *([made.bias(len(codes), step * steps)] if rng.random() < 0.7 else [])]
    value = made.add(
        "Conv",
        reads,
        group=groups,
        strides=[int(size) for size in rng.integers(1, 3, rank)],
        pads=[int(size) for size in rng.integers(0, 2, 2 * rank)],
        dilations=[int(size) for size in rng.integers(1, 3, rank)],
    )
    spread = float(step * steps.mean()) * np.sqrt(each_in * np.prod(kernel))
    made.coded_output(value, spread * float(rng.uniform(20, 300)))
    return made


def matrix_product(seed: int, is_signed: bool) -> QdqFile:
    made = QdqFile(seed, is_signed)
    rng = made.rng
    reduced, columns, rows = (int(size) for size in rng.integers(1, (70, 40, 6)))
    is_gemm, is_turned = seed % 2 == 0, seed // 2 % 2 == 0
    x, step = made.input([rows, reduced] if is_gemm or seed % 3 else [2, rows, reduced])
    is_turned = is_turned and is_gemm
    codes = weight_codes(rng, [columns, reduced] if is_turned else [reduced, columns])
    weight, steps = made.weight(codes, 0 if is_turned else 1)
    reads = [x, weight, *([made.bias(columns, step * steps)] if is_gemm and rng.random() < 0.7 else [])]
    value = made.add("Gemm", reads, transB=int(is_turned)) if is_gemm else made.add("MatMul", reads)
    if seed % 5 == 0:
        made.output(value)
    else:
        made.coded_output(value, float(step * steps.mean() * np.sqrt(reduced)) * float(rng.uniform(20, 300)))
    return made


def blend(seed: int, is_signed: bool) -> QdqFile:
    made = QdqFile(seed, is_signed)
    rng = made.rng
    shape = [3, *(int(size) for size in rng.integers(3, (9, 20, 20)))]
    others = [shape, [3, shape[1], 1, 1], [1, 1, *shape[2:]]][seed % 3]
    (x, first), (y, second) = made.input(shape), made.input(others)
    op = ("Add", "Add", "Mul")[seed // 3 % 3]
    value = made.add(op, [x, y] if rng.random() < 0.5 else [y, x])
    size = float(first * second) * 60 if op == "Mul" else float(max(first, second))
    made.coded_output(value, size * float(rng.uniform(0.7, 2)))
    return made


def mean(seed: int, is_signed: bool) -> QdqFile:
    made = QdqFile(seed, is_signed)
    rng = made.rng
    x, step = made.input([2, *(int(size) for size in rng.integers(4, (20, 12, 12)))])
    if seed % 2:
        value = made.add("GlobalAveragePool", [x])
    else:
        kernel = [int(size) for size in rng.integers(1, 4, 2)]
        pads = [int(rng.integers(0, size)) for size in kernel] * 2
        strides = [int(size) for size in rng.integers(1, 3, 2)]
        count = int(rng.integers(2))
        value = made.add("AveragePool", [x], kernel_shape=kernel, strides=strides, pads=pads, count_include_pad=count)
    made.coded_output(value, float(step) * float(rng.uniform(0.5, 1.2)))
    return made


MAKERS = {"convolution": convolution, "matrix_product": matrix_product, "blend": blend, "mean": mean}


def in_onnx_runtime(path: Path, feeds: dict[str, Tensor]) -> Tensor:
    """The first output in ONNX Runtime, all optimisations on."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: given.numpy() for name, given in feeds.items()})[0])
