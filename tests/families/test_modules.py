"""Small random PyTorch modules through the whole path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.execute import openvino_session
from bitwright.store.module_source import source_of
from families.deliver import Delivered, deliver
from families.modules import MODULES, built
from here import ONNX_RUNTIME, OPENVINO

CONSTANT = {"what it reads is a constant"}


def delivered(name: str, target: str, folder: Path) -> Delivered:
    module, batch = built(name)
    torch.manual_seed(0)
    source = source_of(module, name, batch(2), folder)
    inputs = source.network().inputs
    return deliver(source, lambda count: dict(zip(inputs, batch(count), strict=True)), folder, target)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_delivered_to_onnx_runtime(name: str, tmp_path: Path) -> None:
    found = delivered(name, ONNX_RUNTIME, tmp_path)
    assert found.integer("Conv", "Gemm"), found.floats
    assert found.floats.get("MatMul", CONSTANT) == CONSTANT  # queries that do not depend on the input


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_delivered_to_openvino(name: str, tmp_path: Path) -> None:
    if not openvino_session.is_installed():
        pytest.skip("OpenVINO is not installed")
    found = delivered(name, OPENVINO, tmp_path)
    assert found.integer("Conv", "ConvTranspose", "Gemm"), found.floats
    assert found.floats.get("MatMul", CONSTANT) == CONSTANT
