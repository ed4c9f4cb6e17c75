"""Old opsets: what is converted computes the same, and what the converter gets wrong is mended or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, parser

from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.store.onnx_opset import raise_opset
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.source_error import SourceError

FOUR = "<value: tensor = float[4] {1, 1, 2, 3}>"
BODIES = {
    "clip with attributes": (9, "y = Clip <min: float = 0.0, max: float = 0.5> (x)"),
    "pad with attributes": (9, 'y = Pad <mode: string = "reflect", pads: ints = [0, 0, 1, 1, 0, 0, 1, 1]> (x)'),
    "slice with attributes": (9, "y = Slice <starts: ints = [1], ends: ints = [3], axes: ints = [2]> (x)"),
    "sum with attributes": (12, "y = ReduceSum <axes: ints = [2, 3]> (x)"),
    "squeeze with attributes": (11, "m = ReduceMean <axes: ints = [2, 3]> (x)  y = Squeeze <axes: ints = [2, 3]> (m)"),
    "softmax over several axes": (12, "y = Softmax <axis: int = 1> (x)"),
    "nearest upsampling": (9, f's = Constant {FOUR} ()  y = Upsample <mode: string = "nearest"> (x, s)'),
    "linear upsampling": (9, f's = Constant {FOUR} ()  y = Upsample <mode: string = "linear"> (x, s)'),
    "linear resizing": (10, f's = Constant {FOUR} ()  y = Resize <mode: string = "linear"> (x, s)'),
    "batch norm": (9, "s = Constant <value: tensor = float[3] {1, 1.5, 2}> ()  y = BatchNormalization (x, s, s, s, s)"),
}


def old_model(opset: int, body: str) -> ModelProto:
    text = f'<ir_version: 7, opset_import: ["" : {opset}]> main (float[N, 3, 6, 6] x) => (float y) {{ {body} }}'
    model = parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("name", BODIES)
def test_a_converted_model_computes_the_same(name: str, tmp_path: Path) -> None:
    model = old_model(*BODIES[name])
    onnx.save(model, tmp_path / "m.onnx")
    source = OnnxSource.open(tmp_path / "m.onnx")
    assert source.notes == (f"converted from opset {BODIES[name][0]} to 13",)
    x = torch.randn(2, 3, 6, 6)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(OnnxRunner(source).run({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)


def test_a_conversion_that_changes_the_output_is_refused(tmp_path: Path) -> None:
    onnx.save(old_model(12, "y = Hardmax (x)"), tmp_path / "m.onnx")
    with pytest.raises(SourceError, match="opset 12 cannot be converted.*computes another y.*export the model"):
        OnnxSource.open(tmp_path / "m.onnx")


def test_a_model_that_does_not_run_on_random_inputs_is_said_to_be_unproved() -> None:
    body = "s = Constant <value: tensor = int64[2] {5, 7}> ()  y = Reshape (x, s)"
    text = f'<ir_version: 7, opset_import: ["" : 11]> main (float[N] x) => (float[5, 7] y) {{ {body} }}'
    _, notes = raise_opset(parser.parse_model(text), Path())
    assert len(notes) == 1 and notes[0].startswith("converted from opset 11 to 13; not proved")


def test_a_conversion_that_fails_is_refused() -> None:
    text = '<ir_version: 7, opset_import: ["" : 6]> main (float[3] x) => (float[3] y) { y = Upsample (x) }'
    with pytest.raises(SourceError, match="opset 6 cannot be converted to 13"):
        raise_opset(parser.parse_model(text), Path())


def test_a_new_enough_model_is_left_alone() -> None:
    text = '<ir_version: 8, opset_import: ["" : 13]> main (float[3] x) => (float[3] y) { y = Relu (x) }'
    model = parser.parse_model(text)
    assert raise_opset(model, Path()) == (model, ())


def test_external_data_are_found_for_the_proof(tmp_path: Path) -> None:
    text = """<ir_version: 7, opset_import: ["" : 9]>
    main (float[N, 64] x) => (float[N, 64] y) { p = MatMul (x, w)  y = Softmax (p) }"""
    model = parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    assert OnnxSource.open(tmp_path / "m.onnx").notes == ("converted from opset 9 to 13",)


@pytest.mark.parametrize("size", ["N", "-1"])
def test_a_window_larger_than_two_is_proved_on_one_larger_sample_and_minus_one_is_a_free_size(
    size: str, tmp_path: Path
) -> None:
    model = parser.parse_model(
        '<ir_version: 7, opset_import: ["" : 11]> main (float[A, 3, B, C] x) => (float[A, 3, D, E] y)'
        "{ y = MaxPool <kernel_shape: ints = [5, 5]> (x) }"
    )
    if size == "-1":
        for place in (0, 2, 3):
            model.graph.input[0].type.tensor_type.shape.dim[place].dim_value = -1
    onnx.save(model, tmp_path / "m.onnx")
    source = OnnxSource.open(tmp_path / "m.onnx")
    assert source.notes == ("converted from opset 11 to 13",)
    assert source.network().values["x"].shape == (None, 3, None, None)
