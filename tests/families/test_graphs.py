"""Hand-written ONNX graphs through the whole path, for ONNX Runtime and for OpenVINO."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from bitwright.execute import openvino_session
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.store.onnx_source import OnnxSource, read_model
from families.deliver import deliver
from families.graphs import GRAPHS, saved
from here import ONNX_RUNTIME, OPENVINO

ENGINES = (ONNX_RUNTIME, OPENVINO)


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_delivered(name: str, target: str, tmp_path: Path) -> None:
    if target == OPENVINO and not openvino_session.is_installed():
        pytest.skip("OpenVINO is not installed")
    path, sample = saved(name, tmp_path / "model.onnx")
    found = deliver(OnnxSource.open(path), sample, tmp_path, target)
    assert found.integer("Conv", "Gemm", "MatMul", *(["LSTM"] if target == ONNX_RUNTIME else [])), found.floats


def test_padding_apart_does_not_end_a_run_of_integers(tmp_path: Path) -> None:
    path, sample = saved("padded_apart_and_pooled_over_the_edge", tmp_path / "model.onnx")
    found = deliver(OnnxSource.open(path), sample, tmp_path)
    assert found.floats == {}
    assert "Pad" not in found.ops.values()


def test_a_graph_of_an_old_file_says_what_was_changed(tmp_path: Path) -> None:
    path, _ = saved("constants_among_the_inputs", tmp_path / "model.onnx")
    source = OnnxSource.open(path)
    assert source.network().inputs == ("x",)
    assert [note.partition(" from ")[2].split()[0] for note in source.notes] == ["opset", "IR"]
    assert [value.name for value in source.model().graph.input] == ["x"]


def test_a_float16_model_is_computed_in_float32_and_keeps_its_interface(tmp_path: Path) -> None:
    path, _ = saved("all_in_float16", tmp_path / "model.onnx")
    source = OnnxSource.open(path)
    network = source.network()
    assert len(source.notes) == 1 and "float32" in source.notes[0]
    assert [network.values[name].dtype for name in (*network.inputs, *network.outputs)] == ["float16"] * 2
    linear = [node for node in network.nodes if node.op == "Conv"]
    assert {network.values[node.made].dtype for node in linear} == {"float32"}


def test_a_model_with_external_data_stays_external_through_the_whole_path(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path, sample = saved("gemm_both_ways", folder / "plain.onnx")
    model = onnx.load(path)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=64)
    source = OnnxSource.open(folder / "model.onnx")
    assert source.is_external
    deliver(source, sample, tmp_path)
    for file in (tmp_path / ONNX_RUNTIME / "float.onnx", tmp_path / f"{ONNX_RUNTIME}.onnx"):
        assert OnnxRunner(read_model(file), file.parent).network.constants  # opens
        assert file.with_name(f"{file.name}.data").stat().st_size > file.stat().st_size
        assert any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in read_model(file).graph.initializer)


def test_outputs_without_a_shape_get_the_one_that_was_inferred(tmp_path: Path) -> None:
    path, _ = saved("gemm_both_ways", tmp_path / "model.onnx")
    (output,) = OnnxSource.open(path).model().graph.output
    assert [dim.dim_value for dim in output.type.tensor_type.shape.dim] == [0, 4]
