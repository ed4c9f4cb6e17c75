"""Packed weights, in both forms: bit for bit what the artifact holds, for every width, group and sign; and they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from bitwright.execute.onnx_profile import OnnxSession, executed
from bitwright.export.exporter import ExportError
from bitwright.export.onnx_blocked import export_blocked
from bitwright.export.onnx_forms import OnnxForm, export_onnx
from bitwright.export.onnx_nbits import Accuracy, export_nbits
from bitwright.numerics import PER_ROW, PER_TENSOR, Int, MinMax, Spec, Tile, per_group, quantize
from bitwright.numerics.absmax import AbsMax
from bitwright.store import onnx_write
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.quantized import QuantizedNetwork, StoredWeight
from export.packed_reader import packed_weights

COLS, ROWS = 96, 20
Export = Callable[[QuantizedNetwork, Path], None]
FORMS = {"blocked": export_blocked, "nbits": export_nbits}


def opened(folder: Path, cols: int = COLS) -> OnnxSource:
    """A MatMul, a Gemm of each orientation, one with a bias of another shape, all of one input; opset 13."""
    draws = np.random.default_rng(0)
    shapes = {"a": (cols, ROWS), "b": (ROWS, cols), "c": (cols, ROWS), "bias": (ROWS,), "one": (1,)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["p"], "plain"),
            helper.make_node("Gemm", ["x", "b", "bias"], ["q"], "turned", transB=1),
            helper.make_node("Gemm", ["x", "c", "one"], ["r"], "scalar"),
            helper.make_node("ReduceMean", ["r"], ["mean"], "mean", axes=[1], keepdims=1),
            helper.make_node("Sum", ["p", "q", "mean"], ["y"], "sum"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", cols])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", ROWS])],
        [
            onnx.numpy_helper.from_array(draws.standard_normal(shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), folder / "m.onnx")
    return OnnxSource.open(folder / "m.onnx")


def quantized(source: OnnxSource, spec: Spec) -> QuantizedNetwork:
    weights = {}
    for name, axis, node in (("a", 1, "plain"), ("b", 0, "turned"), ("c", 1, "scalar")):
        tensor = source.read([name])[name]
        matrix = tensor if axis == 0 else tensor.T.contiguous()
        fitter = AbsMax() if spec.zero is None else MinMax()
        codes = quantize(matrix, spec, fitter.fit(spec, matrix))
        weights[name] = StoredWeight(name, axis, tuple(tensor.shape), codes, (node,))
    return QuantizedNetwork(source, weights, {}, frozenset(("plain", "turned", "scalar")))


def spec_of(bits: int, tile: Tile, has_zero: bool) -> Spec:
    form = Int(bits, signed=not has_zero)
    return Spec(form, tile, zero=Spec(form) if has_zero else None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("has_zero", [True, False])
@pytest.mark.parametrize("tile", [per_group(16), per_group(32), per_group(96), PER_ROW, PER_TENSOR], ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_an_independent_reader_finds_the_artifacts_numbers(
    tmp_path: Path, bits: int, tile: Tile, has_zero: bool, form: str
) -> None:
    held = quantized(opened(tmp_path), spec_of(bits, tile, has_zero))
    FORMS[form](held, tmp_path / "w.onnx")
    found = packed_weights(onnx.load(tmp_path / "w.onnx"))
    assert found.keys() == {"a.codes", "b.codes", "c.codes"}
    for name, weight in held.weights.items():
        wanted = weight.qtensor.dequantize().T.numpy()
        assert np.array_equal(found[f"{name}.codes"].astype(np.float32), wanted), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("has_zero", [True, False])
@pytest.mark.parametrize("group", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_onnx_runtime_computes_with_these_numbers(
    tmp_path: Path, bits: int, group: int, has_zero: bool, form: str
) -> None:
    held = quantized(opened(tmp_path, 256), spec_of(bits, per_group(group), has_zero))
    FORMS[form](held, tmp_path / "w.onnx")
    x = torch.randn(5, 256, generator=torch.Generator().manual_seed(1))
    found = OnnxSession(tmp_path / "w.onnx", exact=True).run({"x": x})["y"].double()
    exact = {name: weight.dequantize().double() for name, weight in held.weights.items()}
    bias = {name: held.source.read([name])[name].double() for name in ("bias", "one")}
    last = x.double() @ exact["c"] + bias["one"]
    wanted = x.double() @ exact["a"] + x.double() @ exact["b"].T + bias["bias"] + last.mean(1, keepdim=True)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 2e-6
    ops = Counter(node.op for node in executed(tmp_path / "w.onnx", {"x": x}))
    assert ops["MatMulNBits"] == 3


@pytest.mark.parametrize("form", FORMS)
def test_the_file_is_valid_and_keeps_names_and_the_untouched(tmp_path: Path, form: str) -> None:
    held = quantized(opened(tmp_path), spec_of(4, per_group(32), True))
    FORMS[form](held, tmp_path / "w.onnx")
    model = onnx.load(tmp_path / "w.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {"plain", "turned", "scalar", "mean", "sum"} <= {node.name for node in model.graph.node}
    assert [value.name for value in model.graph.output] == ["y"]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    assert not {"a", "b", "c"} & stored.keys()
    opsets = {one.domain: one.version for one in model.opset_import}
    mean = next(node for node in model.graph.node if node.name == "mean")
    if form == "nbits":
        assert opsets == {"": 13, "com.microsoft": 1}
        assert len(mean.input) == 1
    else:
        assert opsets == {"": 21}
        assert stored["a.codes"].data_type == TensorProto.UINT4
        assert onnx.numpy_helper.to_array(stored[mean.input[1]]).tolist() == [1]


def test_rows_that_no_block_divides_run_exactly(tmp_path: Path) -> None:
    held = quantized(opened(tmp_path, 40), spec_of(8, PER_ROW, False))
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    outputs = []
    for form, export in FORMS.items():
        export(held, tmp_path / f"{form}.onnx")
        outputs.append(OnnxSession(tmp_path / f"{form}.onnx", exact=True).run({"x": x})["y"])
    assert torch.allclose(outputs[0], outputs[1], rtol=1e-5, atol=1e-4)


def test_rounding_of_activations_has_to_be_asked_for(tmp_path: Path) -> None:
    held = quantized(opened(tmp_path, 128), spec_of(4, per_group(32), True))
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(1))
    results = []
    for accuracy in Accuracy:
        export_nbits(held, tmp_path / f"{accuracy.name}.onnx", accuracy)
        results.append(OnnxSession(tmp_path / f"{accuracy.name}.onnx").run({"x": x})["y"])
    error = float((results[0] - results[1]).norm() / results[0].norm())
    assert 1e-4 < error < 0.03


def test_what_no_block_can_hold_is_refused(tmp_path: Path) -> None:
    source = opened(tmp_path)
    with pytest.raises(ExportError, match="groups of 24 columns; a block has 256, 128, 64, 32, 16"):
        export_nbits(quantized(source, spec_of(4, per_group(24), False)), tmp_path / "w.onnx")


def test_the_form_follows_from_the_network(tmp_path: Path) -> None:
    held = quantized(opened(tmp_path), spec_of(4, per_group(32), True))
    ops = {}
    for form in OnnxForm:
        export_onnx(held, tmp_path / f"{form.value}.onnx", form)
        ops[form] = {node.op_type for node in onnx.load(tmp_path / f"{form.value}.onnx").graph.node}
    assert "DequantizeLinear" in ops[OnnxForm.STANDARD]
    assert "MatMulNBits" in ops[OnnxForm.NBITS]


@pytest.mark.parametrize("form", FORMS)
def test_external_data_stay_external_and_the_numbers_the_same(tmp_path: Path, form: str) -> None:
    inside = quantized(opened(tmp_path, 128), spec_of(8, per_group(32), True))
    onnx.save(
        onnx.load(tmp_path / "m.onnx"),
        tmp_path / "e.onnx",
        save_as_external_data=True,
        location="e.bin",
        size_threshold=0,
    )
    beside = quantized(OnnxSource.open(tmp_path / "e.onnx"), spec_of(8, per_group(32), True))
    FORMS[form](inside, tmp_path / "one" / "w.onnx")
    FORMS[form](beside, tmp_path / "two" / "w.onnx")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["w.onnx"]
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["w.onnx", "w.onnx.data"]
    light = onnx.load(tmp_path / "two" / "w.onnx", load_external_data=False)
    assert any(tensor.data_location == TensorProto.EXTERNAL for tensor in light.graph.initializer)
    one, two = (packed_weights(onnx.load(tmp_path / folder / "w.onnx")) for folder in ("one", "two"))
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_outgrows_what_onnx_can_hold_gets_its_data_beside(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = quantized(opened(tmp_path, 256), spec_of(4, per_group(32), True))
    monkeypatch.setattr(onnx_write, "LARGEST_FILE", onnx_write.ROOM_FOR_GRAPH + 2048)
    FORMS[form](held, tmp_path / "w.onnx")
    assert (tmp_path / "w.onnx.data").is_file()
    found = packed_weights(onnx.load(tmp_path / "w.onnx"))
    for name, weight in held.weights.items():
        assert np.array_equal(found[f"{name}.codes"].astype(np.float32), weight.qtensor.dequantize().T.numpy())
    x = torch.randn(2, 256, generator=torch.Generator().manual_seed(1))
    assert OnnxSession(tmp_path / "w.onnx").run({"x": x})["y"].shape == (2, ROWS)
