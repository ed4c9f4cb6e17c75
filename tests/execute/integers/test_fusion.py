"""Which operators of a file run on codes: those with quantizers around them, and nothing that an engine leaves out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import NodeProto, helper

from bitwright.execute.integers import IntegerRunner
from bitwright.numerics import Arithmetic
from bitwright.recipe.targets import TARGETS
from execute.integers.qdq_files import QdqFile, weight_codes

BY_FACTOR, IN_FLOAT = TARGETS["x86-vnni"].arithmetic, TARGETS["tensorrt"].arithmetic


def made_file(op: str, zero: int = 0) -> QdqFile:
    """input -> op -> Relu -> quantizers, of unsigned codes with this zero behind the Relu."""
    made = QdqFile(3)
    x, _ = made.input([2, 4, 6, 6] if op == "Conv" else [2, 4])
    weight, _ = made.weight(weight_codes(made.rng, [5, 4, 1, 1] if op == "Conv" else [4, 5]), 0 if op == "Conv" else 1)
    value = made.add(op, [x, weight])
    made.nodes.append(helper.make_node("Relu", [value], ["clamped"], "relu"))
    made.output(made.quantizers("clamped", 0.3, zero))
    return made


def fused(made: QdqFile, folder: Path, arithmetic: Arithmetic = BY_FACTOR) -> dict[str, tuple[str, ...]]:
    runner = IntegerRunner(made.save(folder / "one.onnx"), arithmetic)
    runner.run(made.feeds)
    return {name: tuple(node.split(":")[0] for node in one.absorbed) for name, one in runner.fused.items()}


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
def test_a_clamp_that_the_codes_do_by_themselves_is_absorbed(tmp_path: Path, op: str) -> None:
    assert fused(made_file(op), tmp_path) == {op.lower(): ("relu", "QuantizeLinear")}


def test_with_a_clamp_in_between_a_convolution_is_float_and_a_product_hands_out_floats(tmp_path: Path) -> None:
    assert fused(made_file("Conv", zero=10), tmp_path) == {}
    assert fused(made_file("MatMul", zero=10), tmp_path) == {"matmul": ()}


def test_an_engine_that_goes_on_in_floats_needs_no_output_in_codes(tmp_path: Path) -> None:
    for zero in (0, 10):
        assert fused(made_file("Conv", zero), tmp_path, IN_FLOAT) == {"conv": ()}


def seen_twice(made: QdqFile) -> None:
    made.output("made")


def read_twice(made: QdqFile) -> None:
    made.nodes.append(helper.make_node("Neg", ["made"], ["other"], "neg"))
    made.output("other")


def float_weight(made: QdqFile) -> None:
    """The weight's codes become floats that are stored as such."""
    (dequantize,) = [node for node in made.nodes if node.output[0] == "weight"]
    made.nodes.remove(dequantize)
    held = next(tensor for tensor in made.stored if tensor.name == dequantize.input[0])
    array = onnx.numpy_helper.to_array(held).astype("float32")
    made.stored.append(onnx.numpy_helper.from_array(array, "weight"))


@pytest.mark.parametrize("change", [seen_twice, read_twice, float_weight])
def test_a_convolution_is_float_where_the_pattern_does_not_hold(
    tmp_path: Path, change: Callable[[QdqFile], None]
) -> None:
    made = made_file("Conv")
    change(made)
    assert fused(made, tmp_path) == {}


@pytest.mark.parametrize(("bound", "is_fused"), [(77.0, True), (76.0, False)])
def test_an_upper_bound_may_not_lie_inside_what_the_codes_hold(tmp_path: Path, bound: float, is_fused: bool) -> None:
    """255 steps of 0.3 are 76.5."""
    made = made_file("Conv")
    place = [node.op_type for node in made.nodes].index("Relu")
    limits: list[str] = [made.constant(onnx.numpy_helper.np.float32(limit)) for limit in (0, bound)]
    clip: NodeProto = helper.make_node("Clip", ["made", *limits], ["clamped"], "relu")
    made.nodes[place] = clip
    assert bool(fused(made, tmp_path)) == is_fused
