"""Small networks of known families through the whole path, to ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.store.module_source import source_of
from families.configs import CONFIGS
from families.deliver import deliver


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_network_from_a_configuration_is_delivered(name: str, tmp_path: Path) -> None:
    pytest.importorskip("diffusers" if name == "sdxl" else "transformers")
    torch.manual_seed(1)
    module, batch = CONFIGS[name]()
    torch.manual_seed(0)
    source = source_of(module.eval(), name, batch(2), tmp_path)
    found = deliver(source, batch, tmp_path)
    assert found.integer("Conv", "Gemm", "MatMul"), found.floats
    assert all(network_input in batch(1) for network_input in source.network().inputs)
