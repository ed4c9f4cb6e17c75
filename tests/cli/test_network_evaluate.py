"""`evaluate` for whole networks: the user's metric of both, distance of outputs, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cli.conftest import call, refused

METRICS = """
import math
import numpy as np
import torch

SAMPLES = r"{samples}"

def rows():
    with np.load(SAMPLES) as held:
        return torch.from_numpy(next(iter(held.values())))

def first(model):
    return model(rows())[:, 0]

def energy(model):
    return float(model(rows()).square().mean())

energy.higher_is_better = False

def broken(model):
    return math.nan
"""


@pytest.fixture
def artifact(residual: tuple[Path, Path], quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the artifact, in a folder with metrics."""
    monkeypatch.chdir(tmp_path)
    name = f"metrics_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(METRICS.format(samples=residual[1]))
    return shutil.copytree(quantized, tmp_path / "artifact")


def metric(folder: Path, name: str) -> str:
    (module,) = folder.parent.glob("metrics_*.py")
    return f"{module.stem}:{name}"


def outputs(path: Path, samples: Path) -> np.ndarray:
    with np.load(samples) as held:
        feeds = dict(held)
    found: np.ndarray = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    return found.astype(np.float64)


def test_the_metric_of_both_networks_with_a_paired_interval_and_the_distance_of_outputs(
    artifact: Path, residual: tuple[Path, Path]
) -> None:
    found = call("evaluate", artifact, "--against", residual[0], "--metric", metric(artifact, "first"), "--json")
    assert found.exit_code == 0, found.output
    data = json.loads(found.stdout)
    before = outputs(residual[0], residual[1])
    after = outputs(artifact / "export" / "onnx" / "model.onnx", residual[1])
    assert data["metric"]["original"] == pytest.approx(before[:, 0].mean(), rel=1e-5)
    assert data["metric"]["delivered"] == pytest.approx(after[:, 0].mean(), rel=1e-5)
    low, high = data["metric"]["interval"]
    assert low < data["metric"]["change"] < high and data["metric"]["samples"] == 24
    wanted = 10 * np.log10((before**2).sum() / ((before - after) ** 2).sum())
    assert list(data["output_sqnr"].values()) == pytest.approx([wanted], abs=0.01)
    assert "1 batches" in data["compared_on"] and 0 < data["bytes"] < data["bytes_original"]
    assert json.loads((artifact / "scores.json").read_text()) == data


def test_samples_alone_give_the_distance_of_outputs(artifact: Path, residual: tuple[Path, Path]) -> None:
    found = call("evaluate", artifact, "--against", residual[0], "--data", residual[1], "--samples", 16, "--json")
    assert found.exit_code == 0, found.output
    data = json.loads(found.stdout)
    assert data["metric"] is None and "16 samples" in data["compared_on"]
    assert all(decibels > 25 for decibels in data["output_sqnr"].values())


def test_a_single_number_and_its_direction_are_printed(artifact: Path, residual: tuple[Path, Path]) -> None:
    found = call("evaluate", artifact, "--against", residual[0], "--metric", metric(artifact, "energy"))
    assert found.exit_code == 0, found.output
    assert "lower is better" in found.stdout and "signal to noise against the original" in found.stdout


def test_activations_that_no_engine_runs_are_simulated_and_that_is_said(
    residual: tuple[Path, Path], tmp_path: Path
) -> None:
    model, samples = residual
    out = tmp_path / "out"
    call("quantize", model, "-r", "w4a4", "-c", samples, "-o", out, "--no-verify")
    found = call("evaluate", out, "--against", model, "--data", samples, "--json")
    assert found.exit_code == 0, found.output
    data = json.loads(found.stdout)
    assert data["is_simulated"] and "simulated, not run" in found.stderr
    assert all(10 < decibels < 60 for decibels in data["output_sqnr"].values())


def test_a_metric_that_returns_nan_is_an_error(artifact: Path, residual: tuple[Path, Path]) -> None:
    words = refused("evaluate", artifact, "--against", residual[0], "--metric", metric(artifact, "broken"))
    assert "gave nan for the original" in words and not (artifact / "scores.json").exists()


def test_what_is_missing_or_for_the_other_half_is_said(artifact: Path, residual: tuple[Path, Path]) -> None:
    model, samples = residual
    assert "--metric" in refused("evaluate", artifact, "--against", model)
    assert "--text: for language models" in refused("evaluate", artifact, "--against", model, "--text", samples)
    assert "has no 'nothing'" in refused(
        "evaluate", artifact, "--against", model, "--metric", metric(artifact, "nothing")
    )


def test_another_model_is_refused(artifact: Path, residual: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    changed = onnx.load(residual[0])
    changed.doc_string = "the same numbers in another file"
    onnx.save(changed, other)
    words = refused("evaluate", artifact, "--against", other, "--data", residual[1])
    assert "is not the model that" in words


def test_language_artifacts_ask_for_text_and_take_no_metric(finished: Path, model: Path) -> None:
    assert "--text" in refused("evaluate", finished, "--against", model)
    assert "--metric: for whole networks" in refused("evaluate", finished, "--against", model, "--metric", "a:b")


def save_finder(folder: Path) -> tuple[Path, Path]:
    """A network that lists the places where a convolution makes more than a threshold, and samples of 16 pictures."""
    draw = np.random.default_rng(0)
    weight = numpy_helper.from_array(draw.normal(size=(4, 3, 3, 3)).astype(np.float32), "weight")
    threshold = numpy_helper.from_array(np.float32(1.0), "threshold")
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["made"], pads=[1, 1, 1, 1]),
        helper.make_node("Greater", ["made", "threshold"], ["above"]),
        helper.make_node("NonZero", ["above"], ["axes"]),
        helper.make_node("Transpose", ["axes"], ["places"], perm=[1, 0]),
        helper.make_node("GatherND", ["made", "places"], ["found"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])
    found = helper.make_tensor_value_info("found", TensorProto.FLOAT, ["count"])
    graph = helper.make_graph(nodes, "finder", [x], [found], [weight, threshold])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "finder.onnx")
    np.savez(folder / "samples.npz", x=draw.normal(size=(16, 3, 8, 8)).astype(np.float32))
    return folder / "finder.onnx", folder / "samples.npz"


def test_outputs_of_another_size_count_as_wrong_and_are_said(tmp_path: Path) -> None:
    network, samples = save_finder(tmp_path)
    out = tmp_path / "out"
    made = call("quantize", network, "-r", "int8", "-c", samples, "--target", "x86-vnni", "--to", "onnx", "-o", out)
    assert made.exit_code == 0, made.output
    assert "output found has another shape than the original's for" in made.stdout
    found = call("evaluate", out, "--against", network, "--data", samples)
    assert found.exit_code == 0, found.output
    assert "of another size for 2 batches, which are all error" in found.stdout
