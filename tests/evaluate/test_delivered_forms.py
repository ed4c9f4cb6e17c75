"""What verified delivery says of every ONNX form that a small transformer layer is written in."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from bitwright.engine.network import quantize_network
from bitwright.engine.simulate import Simulation
from bitwright.evaluate.delivery import Delivery, verify
from bitwright.export.onnx_forms import OnnxForm, export_onnx
from bitwright.recipe.network import find_network_recipe
from bitwright.store.sample_set import Samples, Stacking
from evaluate.deliveries import QUICK
from here import ONNX_RUNTIME
from networks import exported, network, sample


def delivered(folder: Path, recipe: str, form: OnnxForm = OnnxForm.STANDARD, kind: str = "attention") -> Delivery:
    source = exported(network(kind), folder)
    (name,) = source.network().inputs
    held = sample(network(kind), 16, 4)[0]

    def read(index: int) -> tuple[str, dict[str, Tensor]]:
        return str(index), {name: held[index : index + 1]}

    samples = Samples(16, "random", Stacking(True, None), read)
    made = quantize_network(source, find_network_recipe(recipe, ONNX_RUNTIME), folder / "out", samples)
    export_onnx(made, folder / "file.onnx", form)
    feeds = [{name: held[:4]}, {name: held[4:8]}]
    simulation = Simulation.of(made)
    return verify(folder / "file.onnx", source.path, feeds, [simulation.run(one) for one in feeds], timing=QUICK)


@pytest.mark.parametrize(
    ("recipe", "form", "operator", "decibels"),
    [
        ("int8_dynamic", OnnxForm.STANDARD, {"MatMulIntegerToFloat", "DynamicQuantizeMatMul"}, 28),
        ("w4a16", OnnxForm.STANDARD, {"MatMulNBits"}, 15),
        ("w4a16", OnnxForm.NBITS, {"MatMulNBits"}, 15),
        ("w8a16", OnnxForm.STANDARD, {"MatMulNBits"}, 35),
        ("w8a16", OnnxForm.NBITS, {"MatMulNBits"}, 40),
    ],
)
def test_products_run_packed_or_in_integers_and_the_simulation_foretells_them(
    tmp_path: Path, recipe: str, form: OnnxForm, operator: set[str], decibels: float
) -> None:
    found = delivered(tmp_path, recipe, form)
    assert found.is_sound
    trial = next(one for one in found.trials if one.engine == "ONNX Runtime")
    integer = trial.counts()["integer"]
    assert sum(integer.get(op, 0) for op in operator) == 6
    outputs = trial.exact or trial.outputs
    assert outputs[0].original_db > decibels
    assert outputs[0].simulation_db > outputs[0].original_db + 10
    assert not any("ONNX Runtime" in text and ("foretell" in text or "not fused" in text) for text in found.warnings)


def test_8_bit_floats_are_labelled_as_simulated_and_their_speed_is_no_finding(tmp_path: Path) -> None:
    found = delivered(tmp_path, "fp8_static")
    assert found.is_sound
    trial = found.trials[0]
    assert trial.outputs[0].original_db > 20
    assert "ONNX Runtime: simulated: products of 8-bit floats are computed in float32" in " ".join(found.warnings)
    assert not any("slower" in text or "fused" in text for text in found.warnings if text.startswith("ONNX Runtime"))
    reasons = {one.reason for one in trial.operators if one.is_linear}
    assert reasons == {"simulated: ONNX Runtime computes products of 8-bit floats in float32"}


@pytest.mark.parametrize("kind", ["residual", "depthwise"])  # with ReLU and with ReLU6
def test_clamps_before_8_bit_floats_run_as_simulated(kind: str, tmp_path: Path) -> None:
    found = delivered(tmp_path, "fp8_static", kind=kind)
    assert found.is_sound
    outputs = found.trials[0].outputs[0]
    assert outputs.original_db > 15
    assert outputs.simulation_db > outputs.original_db + 6
    assert not any("foretell" in text for text in found.warnings)
