"""The simulation of a quantized network is what its delivered file makes in an engine."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from bitwright.engine.network import quantize_network
from bitwright.engine.simulate import Simulation
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.export.onnx_qdq import export_qdq
from bitwright.recipe.network import NetworkRecipe
from engine.test_network import samples_for
from networks import exported, network, sample


@pytest.mark.parametrize("name", ["residual", "attention", "two_inputs"])
def test_an_8_bit_network_is_simulated_as_its_file_runs(tmp_path: Path, name: str) -> None:
    source = exported(network(name), tmp_path)
    held = quantize_network(source, NetworkRecipe(), tmp_path / "out", samples_for(name, source))
    export_qdq(held, tmp_path / "q.onnx")
    feeds = dict(zip(source.network().inputs, sample(network(name), 8, seed=5), strict=True))
    simulated = Simulation.of(held).run(feeds)
    plain = OnnxRunner(onnx.load(tmp_path / "q.onnx"), tmp_path, exact=True).run(feeds)
    floats = OnnxRunner(source).run(feeds)
    for output, wanted in plain.items():
        apart = (simulated[output] - wanted).norm() / wanted.norm()
        assert apart < 0.3 * (floats[output] - wanted).norm() / wanted.norm()
