"""Hand-written ONNX graphs through the whole path, for ONNX Runtime and for OpenVINO."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.execute import openvino_session
from bitwright.store.onnx_source import OnnxSource
from families.deliver import deliver
from families.graphs import GRAPHS, saved

ENGINES = ("x86-vnni", "openvino")


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_delivered(name: str, target: str, tmp_path: Path) -> None:
    if target == "openvino" and not openvino_session.is_installed():
        pytest.skip("OpenVINO is not installed")
    path, sample = saved(name, tmp_path / "model.onnx")
    found = deliver(OnnxSource.open(path), sample, tmp_path, target)
    assert found.integer("Conv", "Gemm", "MatMul"), found.floats


def test_a_graph_of_an_old_file_says_what_was_changed(tmp_path: Path) -> None:
    path, _ = saved("constants_among_the_inputs", tmp_path / "model.onnx")
    source = OnnxSource.open(path)
    assert source.network().inputs == ("x",)
    assert [note.partition(" from ")[2].split()[0] for note in source.notes] == ["opset", "IR"]
    assert [value.name for value in source.model().graph.input] == ["x"]


def test_outputs_without_a_shape_get_the_one_that_was_inferred(tmp_path: Path) -> None:
    path, _ = saved("gemm_both_ways", tmp_path / "model.onnx")
    (output,) = OnnxSource.open(path).model().graph.output
    assert [dim.dim_value for dim in output.type.tensor_type.shape.dim] == [0, 4]
