"""A sum behind a product of dequantized numbers stays apart from it, and keeps every bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, parser

from bitwright.export.proto_graph import ProtoGraph
from bitwright.export.sums_after_products import separate_biases
from export.arranged import operators, optimised, outputs, rewritten, source_of

FLOAT = "<float[4, 3] weight = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[3] bias = {0.5, -0.25, 0.125}>"
CODES = """<float step = {0.05}, uint8 zero = {128}, float[3] scale = {0.01, 0.02, 0.03}, int8[3] none = {0, 0, 0},
    int8[4, 3] codes = {1, -2, 3, -4, 5, -6, 7, -8, 9, -10, 11, -12}, float[3] bias = {0.5, -0.25, 0.125}>"""
QUANTIZED = """q = QuantizeLinear(x, step, zero) back = DequantizeLinear(q, step, zero)
    weight = DequantizeLinear <axis = 1> (codes, scale, none) product = MatMul(back, weight)"""
BEHIND = "out = Add(product, bias)"
SHAPES = ["2, 4", "B, 4", "2, 5, 4", "B, T, 4"]


def layer(shape: str, folder: Path, rest: str = BEHIND, nodes: str = QUANTIZED) -> tuple[ModelProto, ModelProto]:
    """A linear layer between quantizers, its input of this shape: before and after the rewrite."""
    head = f"g (float[{shape}] x) => (float[{shape[:-1]}3] out)"
    source = source_of(f"{head} {FLOAT} {{ product = MatMul(x, weight) {rest} }}", folder)
    text = f'<ir_version: 9, opset_import: ["" : 18]> {head} {CODES} {{ {nodes} {rest} }}'
    before, after = parser.parse_model(text), parser.parse_model(text)
    separate_biases(ProtoGraph(after, source))
    onnx.checker.check_model(after, full_check=True)
    return before, after


def feeds(shape: str) -> dict[str, np.ndarray]:
    sizes = [int({"B": "2", "T": "5"}.get(size, size)) for size in shape.split(", ")]
    return {"x": np.random.default_rng(0).standard_normal(sizes).astype(np.float32)}


@pytest.mark.parametrize("rest", [BEHIND, "out = Add(bias, product)"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_sum_behind_a_product_becomes_a_sum_of_the_same_bits(tmp_path: Path, shape: str, rest: str) -> None:
    before, after = layer(shape, tmp_path, rest)
    assert operators(after)["Sum"] == 1
    assert operators(after)["Add"] == 0
    (wanted,), (found,) = outputs(before, feeds(shape)), outputs(after, feeds(shape))
    assert wanted.tobytes() == found.tobytes()


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_the_engine_no_longer_runs_a_product_of_known_size_in_float(tmp_path: Path, shape: str) -> None:
    before, after = (optimised(model, tmp_path) for model in layer(shape, tmp_path))
    assert before["Gemm"] == 1
    assert before["MatMulIntegerToFloat"] == 0
    assert after["Gemm"] == 0
    assert after["MatMulIntegerToFloat"] == 1


def test_a_product_that_others_read_keeps_its_sum(tmp_path: Path) -> None:
    before, after = layer("2, 4", tmp_path, "other = Relu(product) out = Add(product, other)")
    assert after == before


def test_the_sum_behind_a_float_product_stays(tmp_path: Path) -> None:
    source = source_of(
        f"g (float[2, 4] x) => (float[2, 3] out) {FLOAT} {{ product = MatMul(x, weight) {BEHIND} }}", tmp_path
    )
    assert rewritten(source, separate_biases) == source.model()


def test_the_sum_behind_a_product_of_floats_with_a_dequantized_weight_stays(tmp_path: Path) -> None:
    before, after = layer("2, 4", tmp_path, nodes=QUANTIZED.replace("MatMul(back", "MatMul(x"))
    assert after == before


def test_the_sum_behind_a_product_of_more_than_matrices_stays(tmp_path: Path) -> None:
    head = "g (float[2, 5, 5] x, float[2, 5, 5] y) => (float[2, 5, 5] out)"
    nodes = "one = Relu(x) two = Relu(y) product = MatMul(one, two) out = Add(product, mask)"
    source = source_of(f"{head} <float[5] mask = {{1, 2, 3, 4, 5}}> {{ {nodes} }}", tmp_path)
    model = source.model()
    for maker in (node for node in model.graph.node if node.op_type == "Relu"):
        maker.op_type = "DequantizeLinear"
    before = model.SerializeToString()
    separate_biases(ProtoGraph(model, source))
    assert model.SerializeToString() == before
