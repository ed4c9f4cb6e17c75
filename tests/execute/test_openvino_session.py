"""OpenVINO, where it is installed: the same outputs, other precisions, and what it says of its operators."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import parser

from bitwright.execute.onnx_profile import OnnxSession
from bitwright.execute.onnx_runner import RunError
from bitwright.store.onnx_source import OnnxSource
from networks import exported, network, sample

pytest.importorskip("openvino", reason="OpenVINO is not installed")

from bitwright.execute.openvino_session import OpenVinoSession, has_bfloat16, is_installed, version


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> OnnxSource:
    return exported(network("two_inputs"), tmp_path_factory.mktemp("openvino"))


def test_it_is_there_and_says_its_version() -> None:
    assert is_installed() and version()[0].isdigit()


def test_in_float32_it_computes_what_onnx_runtime_does(source: OnnxSource) -> None:
    feeds = dict(zip(source.network().inputs, sample(network("two_inputs"), 3), strict=True))
    session = OpenVinoSession(source.path, precision="f32")
    assert session.outputs == source.network().outputs and set(session.inputs) == set(feeds)
    torch.testing.assert_close(session.run(feeds), OnnxSession(source.path).run(feeds), rtol=1e-4, atol=1e-5)
    assert {kind for one in session.executed() if one.op == "Convolution" for kind in one.reads} == {"float"}


def test_outputs_of_one_batch_outlive_the_next(source: OnnxSource) -> None:
    module = network("two_inputs")
    one, two = (dict(zip(source.network().inputs, sample(module, 3, seed), strict=True)) for seed in (0, 1))
    session = OpenVinoSession(source.path, precision="f32")
    first = session.run(one)
    session.run(two)
    torch.testing.assert_close(first, session.run(one), rtol=0, atol=0)


def test_in_bfloat16_it_says_so(source: OnnxSource) -> None:
    if not has_bfloat16():
        pytest.skip("this processor has no bfloat16")
    nodes = OpenVinoSession(source.path, precision="bf16").executed()
    assert any(one.reads == ("bfloat16",) for one in nodes if one.op == "Convolution")


def test_a_file_that_it_cannot_run_is_an_error(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[2] x) => (float[2] y) { y = own.NoSuch(x) }'
    onnx.save(parser.parse_model(text), tmp_path / "own.onnx")
    with pytest.raises(RunError, match="OpenVINO cannot open it"):
        OpenVinoSession(tmp_path / "own.onnx")
