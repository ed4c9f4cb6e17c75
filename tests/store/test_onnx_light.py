"""Large tensors left in the ONNX file: the same model, the same outputs, the same bytes when it is written again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.store import onnx_light, onnx_tensors
from bitwright.store.onnx_light import is_beside, load_light
from bitwright.store.onnx_source import OnnxSource, read_model
from bitwright.store.onnx_tensors import is_external, read_tensor
from bitwright.store.source_error import SourceError


@pytest.fixture(autouse=True)
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_light, "LARGE", 2048)


def model(rows: int = 40) -> ModelProto:
    """Two products, an initializer between small ones, names and documentation of many lengths, metadata."""
    generator = np.random.default_rng(0)
    weights = {
        "first": generator.normal(size=(16, rows)).astype(np.float32),
        "small": generator.normal(size=(rows,)).astype(np.float32),
        "ü" * 70: generator.normal(size=(rows, 300)).astype(np.float32),
        "typed": generator.normal(size=(300, 8)).astype(np.float32),
    }
    stored = [numpy_helper.from_array(held, name) for name, held in weights.items() if name != "typed"]
    stored.append(helper.make_tensor("typed", TensorProto.FLOAT, [300, 8], weights["typed"].reshape(-1)))  # no raw data
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], doc_string="d" * 300),
        helper.make_node("Add", ["a", "small"], ["b"]),
        helper.make_node("MatMul", ["b", "ü" * 70], ["c"]),
        helper.make_node("MatMul", ["c", "typed"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 8])
    graph = helper.make_graph(nodes, "graph", [x], [y], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(made, {"author": "a" * 200})
    return made


def saved(path: Path) -> Path:
    onnx.save(model(), path)
    return path


def filled(light: ModelProto, folder: Path) -> ModelProto:
    """The model with its numbers read back into it, tensor by tensor."""
    for tensor in light.graph.initializer:
        if is_external(tensor):
            numbers = read_tensor(tensor.name, tensor, folder).numpy()
            tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
    return light


def test_all_but_large_raw_numbers_is_as_the_library_reads_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx")
    light = load_light(path)
    assert [tensor.name for tensor in light.graph.initializer if is_external(tensor)] == ["first", "ü" * 70]
    assert not any(is_beside(tensor, path) for tensor in light.graph.initializer)
    assert light.ByteSize() < path.stat().st_size / 3
    assert filled(light, tmp_path) == onnx.load(path)


def test_it_runs_and_reads_as_before(tmp_path: Path) -> None:
    source = OnnxSource.open(saved(tmp_path / "m.onnx"))
    assert not source.is_external
    assert source.files() == (tmp_path / "m.onnx",)
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model().graph.initializer}
    expected = ((x.numpy() @ weights["first"] + weights["small"]) @ weights["ü" * 70]) @ weights["typed"]
    torch.testing.assert_close(OnnxRunner(source).run({"x": x})["y"], torch.tensor(expected), rtol=1e-4, atol=1e-3)
    assert torch.equal(source.read(["first"])["first"], torch.tensor(weights["first"]))


def test_written_again_everything_is_inside_and_only_what_was_replaced_differs(tmp_path: Path) -> None:
    source = OnnxSource.open(saved(tmp_path / "m.onnx"))
    source.write(tmp_path / "n.onnx", source.model(), {"small": torch.zeros(40)})
    wanted = model()
    wanted.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.zeros(40, dtype=np.float32), "small"))
    assert [*tmp_path.glob("n.onnx*")] == [tmp_path / "n.onnx"]
    assert onnx.load(tmp_path / "n.onnx", load_external_data=False) == wanted


def test_a_file_may_be_written_over_itself(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx")
    source = OnnxSource.open(path)
    source.write(path, source.model(), {"first": torch.ones(16, 40)})
    again = OnnxSource.open(path)
    assert torch.equal(again.read(["first"])["first"], torch.ones(16, 40))
    name = "ü" * 70
    assert torch.equal(again.read([name])[name], torch.tensor(numpy_helper.to_array(model().graph.initializer[2])))


def test_data_beside_the_file_stay_there(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=2048)
    source = OnnxSource.open(tmp_path / "m.onnx")
    assert source.is_external
    assert source.files() == (tmp_path / "m.onnx", tmp_path / "m.bin")
    source.write(tmp_path / "n.onnx", source.model())
    assert (tmp_path / "n.onnx.data").is_file()


def test_mapped_numbers_may_be_changed_and_outlive_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_tensors, "MAPPED", 2048)
    onnx.save(model(), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=2048)
    source = OnnxSource.open(tmp_path / "m.onnx")
    first = source.read(["first"])["first"]
    assert torch.equal(first, torch.tensor(numpy_helper.to_array(model().graph.initializer[0])))
    first += 1
    again = source.read(["first"])["first"]
    assert torch.equal(again + 1, first)
    kept = again.clone()
    (tmp_path / "other.bin").write_bytes(bytes((tmp_path / "m.bin").stat().st_size))
    (tmp_path / "other.bin").replace(tmp_path / "m.bin")
    assert torch.equal(again, kept)
    assert not source.read(["first"])["first"].any()


def test_a_link_is_read_whole(tmp_path: Path) -> None:
    saved(tmp_path / "blob")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "m.onnx").symlink_to(tmp_path / "blob")
    light = load_light(tmp_path / "snapshot" / "m.onnx")
    assert light == model()


@pytest.mark.parametrize("damage", ["cut", "zeros", "text", "flipped"])
def test_a_damaged_file_gets_the_usual_error(damage: str, tmp_path: Path) -> None:
    whole = saved(tmp_path / "m.onnx").read_bytes()
    flipped = bytes([whole[0] ^ 0xFF]) + whole[1:]
    broken = {"cut": whole[:-999], "zeros": bytes(5000), "text": b"<html>" * 900, "flipped": flipped}
    (tmp_path / "m.onnx").write_bytes(broken[damage])
    with pytest.raises(SourceError, match="not an ONNX file|holds no operators"):
        read_model(tmp_path / "m.onnx")
