"""The run for whole networks end to end on small networks: an artifact that opens, exports, runs and stays close."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

from bitwright.engine.folder import RunError
from bitwright.engine.network import Step, quantize_network
from bitwright.engine.observe import CalibrationError
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.export.exporter import ExportError
from bitwright.export.onnx_qdq import export_qdq
from bitwright.recipe.network import NetworkPlanError, NetworkRecipe, find_network_recipe, plan_network
from bitwright.store.artifact import ArtifactError
from bitwright.store.network_artifact import open_network, read_manifest
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.sample_set import Samples, Stacking
from here import ONNX_RUNTIME
from networks import exported, network, sample


def samples_for(name: str, source: OnnxSource, count: int = 40, change: float = 1.0) -> Samples:
    inputs = sample(network(name), count, seed=3)
    held = dict(zip(source.network().inputs, inputs, strict=True))

    def read(index: int) -> tuple[str, dict[str, Tensor]]:
        return str(index), {key: value[index : index + 1] * change for key, value in held.items()}

    return Samples(count, "random", Stacking(True, None), read)


def error(source: OnnxSource, path: Path, name: str) -> float:
    feeds = dict(zip(source.network().inputs, sample(network(name), 16, seed=5), strict=True))
    wanted, found = OnnxRunner(source).run(feeds), OnnxRunner(onnx.load(path), path.parent).run(feeds)
    (key,) = wanted
    return float((found[key] - wanted[key]).norm() / wanted[key].norm())


@pytest.mark.parametrize("name", ["residual", "depthwise", "squeeze", "attention", "two_inputs"])
def test_an_8_bit_network_is_close_to_the_float_one_after_export(tmp_path: Path, name: str) -> None:
    source = exported(network(name), tmp_path)
    steps: list[Step] = []
    recipe = NetworkRecipe(target=ONNX_RUNTIME)
    held = quantize_network(source, recipe, tmp_path / "out", samples_for(name, source), steps.append)
    export_qdq(held, tmp_path / "q.onnx")
    assert error(source, tmp_path / "q.onnx", name) < 0.1
    assert steps[-1].done == steps[-1].total == len(held.weights)


def test_the_folder_opens_to_the_same_network(tmp_path: Path) -> None:
    source = exported(network("depthwise"), tmp_path)
    made = quantize_network(source, NetworkRecipe(), tmp_path / "out", samples_for("depthwise", source))
    held = open_network(tmp_path / "out")
    assert held.integer == made.integer
    for name, weight in made.weights.items():
        assert torch.equal(held.weights[name].dequantize(), weight.dequantize())
    for name, point in made.points.items():
        assert (held.points[name].scale, held.points[name].zero) == (point.scale, point.zero)


def test_the_same_inputs_make_the_same_bytes_however_samples_are_read(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path)
    for out in ("one", "two"):
        quantize_network(source, NetworkRecipe(), tmp_path / out, samples_for("residual", source))
    for file in ("manifest.json", "weights.safetensors", "float.onnx"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_every_node_and_every_weight_is_in_the_manifest(tmp_path: Path) -> None:
    source = exported(network("attention"), tmp_path)
    quantize_network(source, NetworkRecipe(), tmp_path / "out", samples_for("attention", source))
    manifest = read_manifest(tmp_path / "out")
    nodes = {node.name for node in open_network(tmp_path / "out").source.network().nodes}
    assert nodes == manifest["roles"].keys() | manifest["float"].keys()
    assert all(entry["sqnr"] > 20 for entry in manifest["weights"])


def test_a_damaged_or_unfinished_folder_is_refused(tmp_path: Path) -> None:
    source = exported(network("depthwise"), tmp_path)
    quantize_network(source, NetworkRecipe(), tmp_path / "out", samples_for("depthwise", source))
    weights = tmp_path / "out" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ArtifactError, match="damaged"):
        open_network(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="not a finished artifact"):
        open_network(tmp_path / "out")


def test_4_bit_weights_keep_8_bits_at_both_ends(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path)
    held = quantize_network(
        source,
        replace(find_network_recipe("w4a8", "x86-vnni"), relief=False),
        tmp_path / "out",
        samples_for("residual", source),
    )
    bits = [weight.qtensor.spec.format.bits for weight in held.weights.values()]
    assert bits == [8, 4, 4, 8]


def test_the_ends_of_a_network_are_those_before_relief(tmp_path: Path) -> None:
    graph = exported(network("residual"), tmp_path).network()
    recipe = find_network_recipe("w4a8", "x86-vnni")
    last = plan_network(graph, recipe).weights[-1].nodes[0]
    relieved = plan_network(graph, recipe, {last: "relief"})
    assert [step.spec.format.bits for step in relieved.weights] == [8, 4, 4]


def test_without_vnni_weights_have_7_bits(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path)
    recipe = find_network_recipe("int8", "x86-avx2")
    held = quantize_network(source, recipe, tmp_path / "out", samples_for("residual", source))
    assert all(int(weight.qtensor.codes.abs().max()) <= 64 for weight in held.weights.values())


def test_4_bit_activations_cannot_be_exported(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path)
    held = quantize_network(
        source, find_network_recipe("w4a4", "x86-vnni"), tmp_path / "out", samples_for("residual", source)
    )
    with pytest.raises(ExportError, match="simulated"):
        export_qdq(held, tmp_path / "q.onnx")


def test_nan_in_a_sample_stops_the_run_and_names_the_input(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path)
    with pytest.raises(CalibrationError, match="NaN"):
        quantize_network(
            source, NetworkRecipe(), tmp_path / "out", samples_for("residual", source, change=float("nan"))
        )


def test_a_node_that_does_not_exist_cannot_be_kept(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path)
    with pytest.raises(NetworkPlanError, match="no node"):
        quantize_network(source, NetworkRecipe(keep=("nobody",)), tmp_path / "out", samples_for("residual", source))


def test_a_finished_run_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = exported(network("residual"), tmp_path)
    samples = samples_for("residual", source)
    quantize_network(source, NetworkRecipe(), tmp_path / "out", samples)
    monkeypatch.setattr("bitwright.engine.network.prepare", None)  # would fail if anything were done
    quantize_network(source, NetworkRecipe(), tmp_path / "out", samples)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path)
    samples = samples_for("residual", source)
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("all of it")
    with pytest.raises(RunError, match="is not empty and no run of this tool"):
        quantize_network(source, NetworkRecipe(), out, samples)
    with pytest.raises(RunError, match="another output folder"):
        quantize_network(source, NetworkRecipe(), source.path.parent, samples)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_a_finished_folder_refuses_another_run_and_minds_no_page_in_it(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path)
    samples = samples_for("residual", source)
    out = tmp_path / "out"
    quantize_network(source, NetworkRecipe(), out, samples)
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(RunError, match="holds a different run"):
        quantize_network(source, NetworkRecipe(weight_bits=7), out, samples)
    (out / "page.html").write_text("a report")
    quantize_network(source, NetworkRecipe(), out, samples)
    assert (out / "manifest.json").read_bytes() == before and (out / "page.html").is_file()


def test_a_run_that_came_to_nothing_does_not_stop_another(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path)
    bad = samples_for("residual", source, change=float("nan"))
    with pytest.raises(CalibrationError):
        quantize_network(source, NetworkRecipe(), tmp_path / "out", bad)
    quantize_network(source, NetworkRecipe(weight_bits=7), tmp_path / "out", samples_for("residual", source))
