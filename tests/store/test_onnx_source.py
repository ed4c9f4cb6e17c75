"""ONNX files as sources: opening, reading, older opsets, external data, writing back, bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser

from bitwright.store.onnx_source import OnnxSource
from bitwright.store.source_error import SourceError
from networks import exported, network

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((64, 32)).astype(np.float32)


def small_model(opset: int = 17) -> onnx.ModelProto:
    """A product with a weight of 8 KiB, a Constant node, and a softmax over one axis."""
    text = f"""
    <ir_version: 8, opset_import: ["" : {opset}], producer_name: "someone", metadata_props: ["author": "me"]>
    main (float[N, 64] x) => (float[N, 32] y)
    {{
        bias = Constant <value: tensor = float[1] {{0.5}}> ()
        [product] p = MatMul(x, weight)
        [sum] s = Add(p, bias)
        [soft] y = Softmax <axis: int = 1> (s)
    }}
    """
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(WEIGHT, "weight"))
    return model


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    onnx.save(small_model(), tmp_path / "plain.onnx")
    return tmp_path / "plain.onnx"


@pytest.fixture
def external(tmp_path: Path) -> Path:
    folder = tmp_path / "external"
    folder.mkdir()
    onnx.save(
        small_model(), folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    return folder / "model.onnx"


def test_constants_are_read_by_name(plain: Path) -> None:
    read = OnnxSource.open(plain).read(["weight", "bias"])
    assert torch.equal(read["weight"], torch.from_numpy(WEIGHT))
    assert torch.equal(read["bias"], torch.tensor([0.5]))


def test_an_unknown_name_is_an_error(plain: Path) -> None:
    with pytest.raises(SourceError, match="'wait'"):
        OnnxSource.open(plain).read(["wait"])


def test_external_data_are_read_from_beside_the_model(external: Path) -> None:
    source = OnnxSource.open(external)
    assert source.is_external
    assert torch.equal(source.read(["weight"])["weight"], torch.from_numpy(WEIGHT))
    assert "weights.bin" in str(source.model().graph.initializer[0].external_data)  # not loaded into the model


def test_small_external_data_are_taken_in_so_that_shapes_can_be_inferred(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    main (float[N, 64] x) => (float[A, B, C] y) <int64[3] shape = {-1, 8, 8}> { y = Reshape(x, shape) }"""
    model = parser.parse_model(text)
    shape = numpy_helper.from_array(np.array([-1, 8, 8]), "shape")
    model.graph.initializer[0].CopyFrom(shape)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    assert OnnxSource.open(tmp_path / "m.onnx").network().values["y"].shape == (None, 8, 8)


def test_the_digest_is_that_of_all_content_and_of_no_path(external: Path, tmp_path: Path) -> None:
    first = OnnxSource.open(external).digest()
    moved = external.parent.rename(tmp_path / "moved")
    assert OnnxSource.open(moved / "model.onnx").digest() == first
    with open(moved / "weights.bin", "r+b") as file:
        file.write(b"\1")
    assert OnnxSource.open(moved / "model.onnx").digest() != first


@pytest.mark.parametrize("opset", range(9, 22))
def test_every_opset_from_9_to_21_opens_and_older_ones_are_converted_up(opset: int, tmp_path: Path) -> None:
    onnx.save(small_model(opset), tmp_path / "m.onnx")
    source = OnnxSource.open(tmp_path / "m.onnx")
    assert source.network().opset == max(opset, 13)
    assert source.notes == ((f"converted from opset {opset} to 13",) if opset < 13 else ())
    assert torch.equal(source.read(["weight"])["weight"], torch.from_numpy(WEIGHT))


def test_local_functions_are_put_in_the_place_of_their_calls(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    main (float[N, 3] x) => (float[N, 3] y) { y = own.twice(x) }
    <domain: "own", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }"""
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    source = OnnxSource.open(tmp_path / "m.onnx")
    assert [node.op for node in source.network().nodes] == ["Add"]
    assert "twice" in source.notes[0]


def test_writing_back_keeps_names_and_metadata_and_replaces_constants(plain: Path, tmp_path: Path) -> None:
    source = OnnxSource.open(plain)
    new = {"weight": torch.zeros(64, 32), "bias": torch.tensor([0.75])}
    source.write(tmp_path / "out.onnx", source.model(), new)
    written = onnx.load(tmp_path / "out.onnx")
    assert [node.name for node in written.graph.node if node.name] == ["product", "sum", "soft"]
    assert written.producer_name == "someone" and written.metadata_props[0].value == "me"
    again = OnnxSource.open(tmp_path / "out.onnx")
    assert again.network() == source.network() and not again.is_external
    assert all(torch.equal(again.read(new)[name], tensor) for name, tensor in new.items())


def test_external_data_stay_external_when_written(external: Path, tmp_path: Path) -> None:
    source = OnnxSource.open(external)
    out = tmp_path / "elsewhere" / "out.onnx"
    source.write(out, source.model(), {"bias": torch.tensor([2.0])})
    assert out.stat().st_size < WEIGHT.nbytes < out.with_name("out.onnx.data").stat().st_size + 1
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.onnx", "out.onnx.data"]
    external.unlink()
    external.with_name("weights.bin").unlink()
    again = OnnxSource.open(out)
    assert again.is_external
    assert torch.equal(again.read(["weight"])["weight"], torch.from_numpy(WEIGHT))
    assert torch.equal(again.read(["bias"])["bias"], torch.tensor([2.0]))
    onnx.checker.check_model(str(out))


def test_a_large_replacement_goes_beside_an_external_model(external: Path, tmp_path: Path) -> None:
    source = OnnxSource.open(external)
    source.write(tmp_path / "out.onnx", source.model(), {"weight": torch.ones(64, 32)})
    assert (tmp_path / "out.onnx").stat().st_size < WEIGHT.nbytes
    again = OnnxSource.open(tmp_path / "out.onnx")
    assert torch.equal(again.read(["weight"])["weight"], torch.ones(64, 32))


def test_a_model_that_outgrows_one_file_becomes_external(plain: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("bitwright.store.onnx_write.LARGEST_FILE", (1 << 27) + 4096)
    source = OnnxSource.open(plain)
    source.write(tmp_path / "out.onnx", source.model(), {"bias": torch.tensor([3.0])})
    again = OnnxSource.open(tmp_path / "out.onnx")
    assert again.is_external
    assert torch.equal(again.read(["weight"])["weight"], torch.from_numpy(WEIGHT))
    assert torch.equal(again.read(["bias"])["bias"], torch.tensor([3.0]))


def test_only_stored_tensors_can_be_replaced(plain: Path, tmp_path: Path) -> None:
    source = OnnxSource.open(plain)
    with pytest.raises(ValueError, match="nothing: the model stores no tensor"):
        source.write(tmp_path / "out.onnx", source.model(), {"nothing": torch.zeros(1)})


def test_an_exported_network_survives_writing(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path)
    source.write(tmp_path / "again.onnx", source.model())
    again = OnnxSource.open(tmp_path / "again.onnx")
    assert again.network() == source.network()
    first, second = (one.read(source.network().constants) for one in (source, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def fails(path: Path, model: onnx.ModelProto, message: str) -> None:
    onnx.save(model, path)
    with pytest.raises(SourceError, match=message):
        OnnxSource.open(path)


@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear", "QLinearConv", "MatMulInteger"])
def test_a_quantized_model_is_refused(op: str, tmp_path: Path) -> None:
    model = small_model()
    model.graph.node[1].op_type = op
    fails(tmp_path / "m.onnx", model, f"quantized already.*{op}.*float model")


def test_a_graph_that_the_checker_rejects_is_refused(tmp_path: Path) -> None:
    model = small_model()
    model.graph.node[3].attribute.append(helper.make_attribute("axes", [1, 2]))
    fails(tmp_path / "m.onnx", model, "not a valid ONNX model.*axes")


def test_a_cyclic_graph_is_refused_with_the_path(tmp_path: Path) -> None:
    model = small_model()
    model.graph.node[1].input[0] = "s"
    fails(tmp_path / "m.onnx", model, "m.onnx: the graph is cyclic")


def test_missing_external_data_are_named(external: Path) -> None:
    external.with_name("weights.bin").unlink()
    with pytest.raises(SourceError, match=r"(weight|bias): .*weights.bin, which is missing"):
        OnnxSource.open(external)


def test_external_data_that_are_cut_short_are_named(external: Path) -> None:
    with open(external.with_name("weights.bin"), "r+b") as file:
        file.truncate(100)
    with pytest.raises(SourceError, match="weight: .*has 100.*cut short"):
        OnnxSource.open(external)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", ""])
def test_external_data_outside_the_folder_are_refused(location: str, external: Path) -> None:
    (external.parent.parent / "weights.bin").write_bytes(bytes(10_000))
    model = onnx.load(external, load_external_data=False)
    tensor = model.graph.initializer[0]
    next(entry for entry in tensor.external_data if entry.key == "location").value = location
    external.write_bytes(model.SerializeToString())
    with pytest.raises(SourceError, match="only a relative path inside"):
        OnnxSource.open(external)


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08"])
def test_a_file_that_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(SourceError, match="m.onnx"):
        OnnxSource.open(tmp_path / "m.onnx")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        OnnxSource.open(tmp_path / "m.onnx")


def test_nan_weights_are_refused_and_infinity_is_not(tmp_path: Path) -> None:
    model = small_model()
    weight = WEIGHT.copy()
    weight[3, 4] = np.inf
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))
    onnx.save(model, tmp_path / "inf.onnx")
    assert torch.isinf(OnnxSource.open(tmp_path / "inf.onnx").read(["weight"])["weight"]).any()
    weight[3, 4] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(SourceError, match="weight holds NaN"):
        OnnxSource.open(tmp_path / "nan.onnx").read(["weight"])


def test_data_that_do_not_fit_the_shape_are_refused(tmp_path: Path) -> None:
    model = small_model()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(SourceError, match="weight: holds 8188 bytes"):
        OnnxSource.open(tmp_path / "m.onnx").read(["weight"])


@pytest.mark.parametrize(
    ("kind", "dtype", "numbers"),
    [
        (TensorProto.FLOAT, torch.float32, [1.5, -2.0]),
        (TensorProto.DOUBLE, torch.float64, [1.5, -2.0]),
        (TensorProto.FLOAT16, torch.float16, [1.5, -2.0]),
        (TensorProto.BFLOAT16, torch.bfloat16, [1.5, -2.0]),
        (TensorProto.INT64, torch.int64, [1, -(1 << 40)]),
        (TensorProto.INT32, torch.int32, [1, -70000]),
        (TensorProto.INT8, torch.int8, [1, -128]),
        (TensorProto.UINT8, torch.uint8, [1, 255]),
        (TensorProto.BOOL, torch.bool, [True, False]),
    ],
)
@pytest.mark.parametrize("raw", [True, False])
def test_every_type_is_read_from_every_field(kind, dtype, numbers, raw, tmp_path: Path) -> None:
    model = small_model()
    data = np.array(numbers).astype(helper.tensor_dtype_to_np_dtype(kind))
    vals = data.tobytes() if raw else numbers
    model.graph.initializer.append(helper.make_tensor("extra", kind, [2], vals, raw=raw))
    onnx.save(model, tmp_path / "m.onnx")
    read = OnnxSource.open(tmp_path / "m.onnx").read(["extra"])["extra"]
    assert read.dtype == dtype
    assert torch.equal(read, torch.tensor(numbers, dtype=dtype))


def test_a_type_that_torch_lacks_is_named(tmp_path: Path) -> None:
    model = small_model()
    model.graph.initializer.append(helper.make_tensor("text", TensorProto.STRING, [1], ["a"]))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(SourceError, match="text: stored as string"):
        OnnxSource.open(tmp_path / "m.onnx").read(["text"])
