"""`plan` for whole networks: every operator, bytes, what stays float, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitwright.cli.network.plan import pattern
from cli.conftest import call, refused


def planned(model: Path, *options: object) -> dict[str, object]:
    found = call("plan", model, *options, "--json")
    assert found.exit_code == 0, found.output
    data: dict[str, object] = json.loads(found.stdout)
    return data


def test_the_plan_is_what_the_run_does(residual: tuple[Path, Path], tmp_path: Path) -> None:
    """Without relief, which follows from samples."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text('preset = "int8"\nrelief = false\n')
    data = planned(residual[0], "-r", recipe)
    found = call("quantize", residual[0], "-r", recipe, "-c", residual[1], "-o", tmp_path / "out", "--no-verify")
    assert found.exit_code == 0, found.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {one["name"]: one["role"] for one in data["operators"] if one["is_integer"]} == manifest["roles"]
    assert {one["name"]: one["reason"] for one in data["operators"] if not one["is_integer"]} == manifest["float"]
    bits = {one["name"]: (one["bits"], one["matrix"]) for one in manifest["weights"]}
    assert {one["name"]: (one["bits"], one["matrix"]) for one in data["weights"]} == bits
    assert [one["value"] for one in data["points"]] == [one["value"] for one in manifest["points"]]


def test_the_bytes_are_about_those_of_the_delivered_file(residual: tuple[Path, Path], quantized: Path) -> None:
    cost = planned(residual[0], "-r", "int8")["cost"]
    assert cost["bytes"] < (quantized / "export" / "onnx" / "model.onnx").stat().st_size
    assert cost["bytes_before"] < residual[0].stat().st_size


def test_what_is_alike_is_folded_and_nothing_is_written(residual: tuple[Path, Path], tmp_path: Path) -> None:
    before = sorted(residual[0].parent.iterdir())
    found = call("plan", residual[0], "-r", "int8")
    assert found.exit_code == 0, found.output
    assert "conv*.weight" in found.stdout and "100.0% of" in found.stdout and "peak memory" in found.stdout
    assert sorted(residual[0].parent.iterdir()) == before


@pytest.mark.parametrize(("name", "folded"), [("a.0.b12", "a.*.b*"), ("/layer3/Conv_1", "/layer*/Conv_*")])
def test_numbers_of_a_name_are_folded(name: str, folded: str) -> None:
    assert pattern(name) == folded


def test_samples_measure_the_sizes_that_shapes_say(residual: tuple[Path, Path]) -> None:
    plain, measured = planned(residual[0], "-r", "int8"), planned(residual[0], "-r", "int8", "-c", residual[1])
    assert plain["cost"]["products"] == measured["cost"]["products"]


def test_what_stays_float_is_said_with_its_reason_and_its_share(residual: tuple[Path, Path]) -> None:
    data = planned(residual[0], "-r", "int8")
    node = next(one["name"] for one in data["operators"] if one["products"])
    kept = planned(residual[0], "-r", "int8", "--keep", node)
    assert any(f"{node} stays float (asked to stay float)" in text for text in kept["warnings"])
    assert kept["cost"]["integer_share"] < 1 == data["cost"]["integer_share"]


def test_targets_and_simulated_activations_are_warned_about(residual: tuple[Path, Path]) -> None:
    assert any("7 of 8 bits" in text for text in planned(residual[0], "-r", "int8", "--target", "x86-avx2")["warnings"])
    assert any("simulated only" in text for text in planned(residual[0], "-r", "w4a4")["warnings"])


def test_dynamic_activations_are_warned_about_where_the_engine_multiplies_them_in_float(
    residual: tuple[Path, Path],
) -> None:
    def is_warned(recipe: str, target: str) -> bool:
        found = planned(residual[0], "-r", recipe, "--target", target)["warnings"]
        return any("slower than fp32" in text for text in found)

    assert is_warned("int8_dynamic", "openvino")
    assert not is_warned("int8", "openvino")
    assert not is_warned("int8_dynamic", "x86-vnni")


def test_a_module_needs_an_example_and_options_of_the_other_half_are_refused(
    residual: tuple[Path, Path], model: Path
) -> None:
    assert "--loader" in refused("plan", "torch.nn:Identity", "-r", "int8")
    assert "--max-ram: for language models" in refused("plan", residual[0], "-r", "int8", "--max-ram", "1GiB")
    assert "--target: for whole networks" in refused("plan", model, "-r", "w4a16", "--target", "arm")
