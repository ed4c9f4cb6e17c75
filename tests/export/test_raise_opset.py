"""Raising the opset changes no result, touches only nodes whose meaning changed, and refuses what it does not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper

from bitwright.export.exporter import ExportError
from bitwright.export.raise_opset import keeps_meaning, raise_opset
from networks import NETWORKS, exported, network, sample

ROI = np.array([[0.0, 0.0, 3.0, 3.0]], dtype=np.float32)


def model_of(nodes: list[NodeProto], opset: int, outputs: int = 1, **stored: np.ndarray) -> ModelProto:
    """x [1, 4, 6, 6] to y, z ...; the constants by name."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in "yzw"[:outputs]],
        [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def raised(model: ModelProto, opset: int) -> ModelProto:
    copy = ModelProto.FromString(model.SerializeToString())

    def store(name: str, tensor: torch.Tensor) -> str:
        copy.graph.initializer.append(onnx.numpy_helper.from_array(tensor.numpy(), name))
        return name

    raise_opset(copy, opset, store)
    return copy


def outputs(model: ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found: list[np.ndarray] = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)
    return found


CASES = {
    "mean": model_of([helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3])], 13),
    "mean of all": model_of([helper.make_node("ReduceMean", ["x"], ["y"])], 13),
    "largest": model_of([helper.make_node("ReduceMax", ["x"], ["y"], axes=[1])], 13),
    "norm": model_of([helper.make_node("ReduceL2", ["x"], ["y"], axes=[1])], 13),
    "equal parts": model_of([helper.make_node("Split", ["x"], ["y", "z"], axis=1)], 13, 2),
    "parts": model_of([helper.make_node("Split", ["x", "n"], ["y", "z"], axis=1)], 13, 2, n=np.array([1, 3])),
    "regions": model_of(
        [helper.make_node("RoiAlign", ["x", "r", "i"], ["y"], output_height=2, output_width=2)],
        13,
        r=ROI,
        i=np.array([0]),
    ),
    "grid": model_of(
        [helper.make_node("GridSample", ["x", "g"], ["y"], mode="bilinear")],
        16,
        g=np.linspace(-0.9, 0.9, 18, dtype=np.float32).reshape(1, 3, 3, 2),
    ),
    "pool": model_of([helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2])], 13),
    "cast": model_of(
        [
            helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
            helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
        ],
        13,
    ),
    "padded": model_of([helper.make_node("Pad", ["x", "p"], ["y"])], 13, p=np.array([0, 0, 1, 1, 0, 0, 1, 1])),
    "scaled": model_of([helper.make_node("Resize", ["x", "", "s"], ["y"])], 13, s=np.array([1, 1, 2, 2], np.float32)),
}


@pytest.mark.parametrize("opset", [19, 21])
@pytest.mark.parametrize("case", CASES)
def test_the_results_stay(case: str, opset: int) -> None:
    before = CASES[case]
    after = raised(before, opset)
    onnx.checker.check_model(after, full_check=True)
    assert after.opset_import[0].version == opset
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    for one, other in zip(outputs(before, {"x": x}), outputs(after, {"x": x}), strict=True):
        assert np.allclose(one, other, rtol=1e-6, atol=1e-7)  # an engine may have another kernel for another opset


@pytest.mark.parametrize("name", NETWORKS)
def test_exported_networks_can_be_raised(tmp_path: Path, name: str) -> None:
    module = network(name)
    source = exported(module, tmp_path)
    feeds = {key: value.numpy() for key, value in zip(source.network().inputs, sample(module, 2), strict=True)}
    before = onnx.load(source.path)
    after = raised(before, 21)
    assert list(after.graph.node) == list(before.graph.node)
    for one, other in zip(outputs(before, feeds), outputs(after, feeds), strict=True):
        assert np.allclose(one, other, rtol=1e-5, atol=1e-6)  # functions such as HardSwish are spelled out anew


def test_a_newer_model_stays_as_it_is() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], 22)
    assert raised(model, 21) == model


def test_nodes_in_subgraphs_are_raised_too() -> None:
    then = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["t"], axes=[1])],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, [None] * 4)],
    )
    other = helper.make_graph(
        [helper.make_node("ReduceMax", ["x"], ["e"], axes=[1])],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, [None] * 4)],
    )
    branch = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    model = model_of([branch], 13, c=np.array(True))
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    assert np.array_equal(outputs(model, {"x": x})[0], outputs(raised(model, 21), {"x": x})[0])


def test_an_operator_that_changed_in_a_way_not_known_is_refused_before_anything_changes() -> None:
    model = model_of(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[1]),
            helper.make_node("GroupNormalization", ["m", "s", "s"], ["y"], "norm", num_groups=1),
        ],
        18,
        s=np.ones(1, np.float32),
    )
    with pytest.raises(ExportError, match="norm: GroupNormalization changed between opset 18"):
        raise_opset(model, 21, lambda name, tensor: name)
    assert model.opset_import[0].version == 18


def test_types_alone_keep_the_meaning_and_a_new_default_does_not() -> None:
    assert keeps_meaning(helper.make_node("Relu", ["x"], ["y"]), 13, 21)
    assert keeps_meaning(helper.make_node("Reshape", ["x", "s"], ["y"]), 13, 21)
    assert not keeps_meaning(helper.make_node("ReduceMean", ["x"], ["y"], axes=[1]), 13, 21)
    assert not keeps_meaning(helper.make_node("Upsample", ["x", "s"], ["y"]), 9, 21)
