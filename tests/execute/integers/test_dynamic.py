"""Codes whose scale is found as the network runs: equal to ONNX Runtime, and to the formulas of the standard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bitwright.execute.integers import IntegerRunner
from bitwright.execute.integers.dynamic import run_dynamic
from bitwright.graph.network import Node
from bitwright.recipe.targets import TARGETS
from execute.integers.qdq_files import in_onnx_runtime
from execute.integers.scalar import F, dot, half_even

QUANTIZE = Node("q", "DynamicQuantizeLinear", ("x",), ("codes", "scale", "zero"))
VNNI, AVX2 = TARGETS["x86-vnni"].arithmetic, TARGETS["x86-avx2"].arithmetic


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)])
def test_the_range_has_zero_in_it(low: float, high: float) -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(1)) * (high - low) + low
    codes, scale, zero = run_dynamic(QUANTIZE, [values], False)
    least, most = min(F(0), values.numpy().min()), max(F(0), values.numpy().max())
    step = (most - least) / F(255) if most > least else F(1)
    null = half_even(min(max(F(0) - least / step, F(0)), F(255)))
    assert float(scale) == step and int(zero) == null
    assert codes.tolist() == [min(max(half_even(F(value) / step) + null, 0), 255) for value in values.numpy()]


def dynamic_file(path: Path, codes: np.ndarray, shape: list[int]) -> Path:
    """DynamicQuantizeLinear, MatMulInteger, and the way back to floats."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["codes", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["codes", "weight", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "steps"], ["both"]),
        helper.make_node("Mul", ["floats", "both"], ["y"]),
    ]
    stored = [numpy_helper.from_array(codes, "weight"), numpy_helper.from_array(np.array(0.01, np.float32), "steps")]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    ends[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "dynamic", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("seed", range(3))
def test_a_dynamic_product_is_the_one_of_onnx_runtime(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-64, 64, (30, 11)).astype(np.int8)  # in half the range: any x86 machine does the same
    path = dynamic_file(tmp_path / "one.onnx", codes, [2, 5, 30])
    feeds = {"x": torch.from_numpy(rng.normal(0.3, 1, (2, 5, 30)).astype(np.float32))}
    runner = IntegerRunner(path, VNNI)
    assert runner.in_integers == 1
    assert torch.equal(runner.run(feeds)["y"], in_onnx_runtime(path, feeds))


def test_it_saturates_without_vnni(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    codes = rng.integers(90, 128, (7, 4)).astype(np.int8)
    path = dynamic_file(tmp_path / "one.onnx", codes, [3, 7])
    x = torch.from_numpy(rng.uniform(-0.1, 1, (3, 7)).astype(np.float32))
    held, _, zero = run_dynamic(QUANTIZE, [x], True)
    node = Node("m", "MatMulInteger", ("codes", "weight", "zero"), ("sums",))
    (sums,) = run_dynamic(node, [held, torch.from_numpy(codes), zero], True)
    assert sums.tolist() == [[dot(row, column, int(zero), 0, True) for column in codes.T] for row in held.tolist()]
    made = [IntegerRunner(path, one).run({"x": x})["y"] for one in (VNNI, AVX2)]
    assert float(made[0].mean()) > float(made[1].mean()) * 1.1


def test_an_integer_convolution_adds_up_like_a_product() -> None:
    draws = torch.Generator().manual_seed(2)
    x = torch.randint(0, 256, (1, 3, 4, 4), generator=draws).to(torch.uint8)
    w = torch.randint(-128, 128, (2, 3, 1, 1), generator=draws).to(torch.int8)
    node = Node("c", "ConvInteger", ("x", "w", "z"), ("sums",))
    (sums,) = run_dynamic(node, [x, w, torch.tensor(7, dtype=torch.uint8)], False)
    wanted = torch.einsum("bchw,oc->bohw", x.long() - 7, w.long()[:, :, 0, 0])
    assert torch.equal(sums.long(), wanted)
