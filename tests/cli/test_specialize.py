"""`specialize`: a network inside an If is refused with the remedy, and can be quantized after it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from cli.conftest import call, refused

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
main (float[N, 8] x, int64 rate) => (float[N, 8] y) <int64 high = {16000}> {
  c = Equal (rate, high)
  y = If (c) <
    then_branch = one () => (float[N, 8] p) { s = MatMul (x, w1) r = Relu (s) p = MatMul (r, w2) },
    else_branch = two () => (float[N, 8] p) { s = MatMul (x, w2) p = Relu (s) }
  >
}"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    proto, draws = parser.parse_model(TEXT), np.random.default_rng(0)
    for name in ("w1", "w2"):
        proto.graph.initializer.append(numpy_helper.from_array(draws.standard_normal((8, 8)).astype(np.float32), name))
    onnx.save(proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_network_inside_an_if_is_refused_with_the_remedy_which_helps(model: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x, rate=np.full(16, 16000))
    samples = ("-r", "int8", "-c", tmp_path / "samples.npz")
    assert "bitwright specialize" in refused("quantize", model, *samples, "-o", tmp_path / "out")
    found = call("specialize", model, "--set", "rate=16000", "-o", tmp_path / "high.onnx", "--json")
    assert found.exit_code == 0, found.output
    data = json.loads(found.stdout)
    assert data["taken"] == [["y", "then"]] and data["left"] == [] and data["doubt"] is None
    found = call("quantize", data["path"], *samples, "-o", tmp_path / "out", "--to", "onnx", "--no-verify", "--json")
    assert found.exit_code == 0, found.output
    delivered = onnx.load(json.loads(found.stdout)["export"])
    assert {value.name for value in delivered.graph.input} == {"x", "rate"}
    assert sum(node.op_type == "QuantizeLinear" for node in delivered.graph.node) >= 2


def test_what_was_decided_and_what_was_not_is_said(model: Path, tmp_path: Path) -> None:
    said = call("specialize", model, "--set", "rate=16000", "-o", tmp_path / "high.onnx").stdout
    assert "y: always its then-branch" in said and "computes the same as the model" in said
    said = call("specialize", model, "--shape", "x=1,8", "-o", tmp_path / "one.onnx").stdout
    assert "y: still decided in every run" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--set INPUT=NUMBER"),
        (["--set", "rate"], "write the name of an input"),
        (["--set", "rate=fast"], "a number, true or false; found 'fast'"),
        (["--shape", "x=1,b"], "whole numbers with commas"),
        (["--set", "speed=1"], "no input of this name"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], words: str, model: Path, tmp_path: Path) -> None:
    assert words in " ".join(refused("specialize", model, *arguments, "-o", tmp_path / "out.onnx").split())


def test_the_outcome_is_an_onnx_file(model: Path, tmp_path: Path) -> None:
    assert "--out is an .onnx file" in refused("specialize", model, "--set", "rate=1", "-o", tmp_path / "out")
