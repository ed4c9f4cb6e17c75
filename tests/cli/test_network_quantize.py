"""`quantize` for whole networks: files, modules, samples, and what is said where something is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers

from bitwright.cli.network.quantize import Progress
from bitwright.engine.network import Step, quantize_network
from bitwright.evaluate.metric import callable_model
from bitwright.recipe.network import int8
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.samples import read_samples
from cli.conftest import ROOT, call, refused
from networks import exported, network

FACTORY = """
import torch
import transformers
from torch import nn

def build():
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        yield torch.randn(4, 3, 10, 10, generator=generator)

def none():
    return None
"""


def outputs(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    found: np.ndarray = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    return found


@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
def test_an_onnx_file_becomes_one_in_integers_that_agrees(
    recipe: str, residual: tuple[Path, Path], tmp_path: Path
) -> None:
    model, samples = residual
    out = tmp_path / "out"
    found = call("quantize", model, "-r", recipe, "-c", samples, "-o", out, "--to", "onnx", "--no-verify", "--json")
    assert found.exit_code == 0, found.output
    data = json.loads(found.stdout)
    assert data["delivery"] is None and data["bytes"] < data["bytes_original"]
    delivered = onnx.load(data["export"])
    onnx.checker.check_model(delivered)
    kinds = {tensor.data_type for tensor in delivered.graph.initializer if len(tensor.dims) > 1}
    has_relief = bool(json.loads((out / "manifest.json").read_text())["relief"])
    assert kinds == {onnx.TensorProto.INT8} | ({onnx.TensorProto.FLOAT} if has_relief else set())
    with np.load(samples) as stored:
        feeds = dict(stored)
    before, after = outputs(model, feeds), outputs(Path(data["export"]), feeds)
    noise = float(((before - after) ** 2).sum() / (before**2).sum())
    assert 0 < noise < {"int8": 1e-3, "w4a8": 3e-2}[recipe]


@pytest.mark.slow
def test_what_is_delivered_is_verified(residual: tuple[Path, Path], tmp_path: Path) -> None:
    model, samples = residual
    found = call("quantize", model, "-r", "int8", "-c", samples, "-o", tmp_path / "out")
    assert found.exit_code == 0, found.output
    assert "dB against the simulation" in found.stdout and "operators in integers" in found.stdout
    told = re.search(r"verifying the delivered file on (\d+) of (\d+) samples", found.stderr)
    with np.load(samples) as stored:
        assert told and int(told[2]) == len(stored[stored.files[0]]) and int(told[1]) == min(16, int(told[2]))
    delivery = json.loads((tmp_path / "out" / "delivery.json").read_text())
    assert delivery["checker"] == "" and delivery["problems"] == []


@pytest.mark.slow
def test_a_target_that_is_not_here_is_labelled_as_simulated(residual: tuple[Path, Path], tmp_path: Path) -> None:
    model, samples = residual
    found = call("quantize", model, "-r", "int8", "-c", samples, "-o", tmp_path / "out", "--target", "arm")
    assert found.exit_code == 0, found.output
    foretold = json.loads((tmp_path / "out" / "delivery.json").read_text())["foretold"]
    label = "integer-exact" if foretold["is_here"] else "simulated, integer-exact"
    assert f"arm ({label}): outputs {foretold['outputs'][0]['original_db']:.1f} dB" in found.stdout


def test_a_module_is_built_by_the_users_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    command = ("quantize", "mine:build", "-r", "int8", "--loader", "mine:batches", "-o", "out", "--no-verify", "--json")
    found = call(*command)
    assert found.exit_code == 0, found.output
    assert Path(json.loads(found.stdout)["export"]).is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-r", "int8"), "give --calibration"),
        (("-r", "int9", "-c", "SAMPLES"), "choose one of int8"),
        (("-r", "int8", "-c", "SAMPLES", "--target", "toaster"), "choose one of x86-vnni"),
        (("-r", "int8", "-c", "SAMPLES", "--to", "dense"), "one of onnx, onnx-nbits"),
        (("-r", "w4a4", "-c", "SAMPLES", "--to", "onnx"), "activations of 4 bits are simulated"),
        (("-r", "int8", "-c", "SAMPLES", "--to", "onnx-nbits"), "weights alone (w4a16, w8a16)"),
        (("-r", "int8", "-c", "SAMPLES", "--loader", "a:b"), "not from both"),
        (("-r", "int8", "--loader", "nowhere:batches"), "no module 'nowhere'"),
        (("-r", "int8", "-c", "missing.npz"), "no such file"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_missing_or_unknown_is_said(
    options: tuple[str, ...], words: str, residual: tuple[Path, Path], tmp_path: Path
) -> None:
    model, samples = residual
    given = [str(samples) if option == "SAMPLES" else option for option in options]
    found = call("quantize", model, *given, "-o", tmp_path / "out")
    assert found.exit_code == 2
    assert words in found.stderr


def test_what_no_engine_runs_is_made_and_said_not_to_be_exported(residual: tuple[Path, Path], tmp_path: Path) -> None:
    model, samples = residual
    found = call("quantize", model, "-r", "w4a4", "-c", samples, "-o", tmp_path / "out", "--json")
    assert found.exit_code == 0, found.output
    data = json.loads(found.stdout)
    assert data["export"] is None and 0 < data["bytes"] < data["bytes_original"]
    assert "not exported" in found.stderr


def test_a_loader_that_gives_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    found = call("quantize", "mine:build", "-r", "int8", "--loader", "mine:none", "-o", "out")
    assert found.exit_code == 2 and "must give batches" in found.stderr


def test_samples_of_another_shape_are_refused(residual: tuple[Path, Path], tmp_path: Path) -> None:
    model, samples = residual
    with np.load(samples) as stored:
        np.savez(tmp_path / "wrong.npz", **{name: array[:, :2] for name, array in stored.items()})
    found = call("quantize", model, "-r", "int8", "-c", tmp_path / "wrong.npz", "-o", tmp_path / "out")
    assert found.exit_code == 2 and "wrong.npz" in found.stderr


def test_samples_that_are_not_numbers_are_named(residual: tuple[Path, Path], tmp_path: Path) -> None:
    model, samples = residual
    with np.load(samples) as stored:
        arrays = {name: array.copy() for name, array in stored.items()}
    next(iter(arrays.values()))[5, 0, 0, 0] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    found = call("quantize", model, "-r", "int8", "-c", tmp_path / "nan.npz", "-o", tmp_path / "out")
    assert found.exit_code == 2 and "sample 5" in found.stderr


def test_limits_of_language_models_are_refused_instead_of_ignored(residual: tuple[Path, Path], tmp_path: Path) -> None:
    model, samples = residual
    found = call("quantize", model, "-r", "int8", "-c", samples, "-o", tmp_path / "out", "--max-ram", "4GiB")
    assert found.exit_code == 2 and "--max-ram" in found.stderr and not (tmp_path / "out").exists()


def test_a_recipe_of_ones_own_and_nodes_to_keep(residual: tuple[Path, Path], tmp_path: Path) -> None:
    model, samples = residual
    names = [node.name for node in onnx.load(model).graph.node if node.op_type in ("Conv", "Gemm")]
    (tmp_path / "mine.toml").write_text(f'preset = "int8"\nranges = ["MinMaxRange"]\nkeep = ["{names[0]}"]\n')
    command = ("quantize", model, "-r", tmp_path / "mine.toml", "-c", samples, "-o", tmp_path / "out", "--no-verify")
    found = call(*command, "--keep", names[1], "--json")
    assert found.exit_code == 0, found.output
    manifest = json.loads(found.stdout)["manifest"]
    assert {manifest["float"][name] for name in names[:2]} == {"asked to stay float"}
    assert manifest["recipe"]["ranges"] == [{"type": "MinMaxRange"}]


def test_an_unknown_node_to_keep_is_refused_before_anything_is_written(
    residual: tuple[Path, Path], tmp_path: Path
) -> None:
    model, samples = residual
    words = refused("quantize", model, "-r", "int8", "-c", samples, "-o", tmp_path / "out", "--keep", "nobody")
    assert "nobody" in words and "no node of this name" in words and not (tmp_path / "out").exists()


METRIC = """
import torch
import transformers

def energy(model):
    given = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return -(model(given) - torch.load(__file__.replace("measure.py", "wanted.pt"))).square().sum(1)
"""


def test_outputs_are_as_good_as_asked(
    residual: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, samples = residual
    source = OnnxSource.open(model)
    shape = source.network().values[source.network().inputs[0]].shape or ()
    given = torch.randn(8, *map(int, shape[1:]), generator=torch.Generator().manual_seed(0))
    torch.save(callable_model(source)(given), tmp_path / "wanted.pt")
    (tmp_path / "measure.py").write_text(METRIC.replace("8, 3, 12, 12", ", ".join(map(str, given.shape))))
    monkeypatch.syspath_prepend(tmp_path)
    command = ("quantize", model, "-r", "int8", "-c", samples, "--no-verify")
    first = call(*command, "-o", tmp_path / "one", "--metric", "measure:energy", "--max-drop", "1e9", "--json")
    assert first.exit_code == 0, first.output
    loss = json.loads(first.stdout)["manifest"]["goal"]["rounds"][0]["found"][0]
    asked = ("--metric", "measure:energy", "--max-drop", loss / 2, "--min-sqnr", 20)
    said = call(*command, "-o", tmp_path / "two", *asked)
    assert said.exit_code == 0 and "operators stay float for it" in said.stdout and "20 asked" in said.stdout
    goal = json.loads((tmp_path / "two" / "manifest.json").read_text())["goal"]
    assert goal["is_met"] and goal["rounds"][-1]["found"][1] <= loss / 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-drop", 1), "--metric and --max-drop go together"),
        (("--metric", "m:f"), "--metric and --max-drop go together"),
        (("--metric", "m:f", "--max-drop", 0), "above 0"),
        (("--metric", "nobody_knows:f", "--max-drop", 1), "nobody_knows"),
        (("--min-sqnr", -3), "min_sqnr is in decibels, above 0"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "quantize"])
def test_what_cannot_be_asked_of_outputs_is_refused(
    verb: str, options: tuple[object, ...], words: str, residual: tuple[Path, Path], tmp_path: Path
) -> None:
    to = ("-o", tmp_path / "out") if verb == "quantize" else ()
    assert words in " ".join(refused(verb, residual[0], "-r", "int8", "-c", residual[1], *to, *options).split())
    assert not (tmp_path / "out").exists()


def test_options_of_networks_are_refused_for_language_models(model: Path, text: Path, tmp_path: Path) -> None:
    words = refused("quantize", model, "-r", "w4a16", "-c", text, "-o", tmp_path / "out", "--no-verify")
    assert "--no-verify: for whole networks" in words
    words = refused("quantize", model, "-r", "w4a16", "-c", text, "-o", tmp_path / "out", "--min-sqnr", 30)
    assert "--min-sqnr: for whole networks" in words


def test_a_stopped_run_says_how_to_go_on_and_then_does(
    residual: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, samples = residual
    out = tmp_path / "out"
    command = ("quantize", model, "-r", "int8_per_tensor", "-c", samples, "-o", out, "--no-verify")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bitwright.engine.network.finish", interrupt)
        found = call(*command)
    assert found.exit_code == 130 and "what is finished is kept: run the same command again" in found.stderr
    first = out / "checkpoints" / "00000.safetensors"
    first.write_bytes(first.read_bytes()[:-1])
    found = call(*command)
    assert found.exit_code == 0 and "going on from there" in found.stderr
    notes = json.loads((out / "run.json").read_text())["notes"]
    assert len(notes) == 2 and "trial: the digest of 00000 differs; it is computed again" in notes
    assert "equalize: " in found.stdout and "absorb: " in found.stdout and not first.exists()


def test_a_part_of_a_model_goes_through_all_verbs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "vocab_size": 4096}
    ends = {"decoder_start_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    folder, out = tmp_path / "model", tmp_path / "out"
    transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, **ends)).save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(ROOT / "examples" / "bookllama")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"He went to the {word} and came back." for word in ("sea", "house", "king", "wood")))
    part = f"{folder}:decoder_with_past"
    arguments = ("-r", "int8", "-c", text, "--length", 12, "--samples", 8)
    planned = call("plan", part, *arguments, "--json")
    assert planned.exit_code == 0, planned.output
    made = call("quantize", part, *arguments, "-o", out, "--to", "onnx", "--no-verify", "--json")
    assert made.exit_code == 0, made.output
    file = Path(json.loads(made.stdout)["export"])
    takes = {value.name for value in onnx.load(file).graph.input}
    assert takes >= {"input_ids", "encoder_attention_mask", "past_key_values.0.decoder.key"}
    scored = call("evaluate", out, "--against", part, "--data", text, "--length", 12, "--json")
    assert scored.exit_code == 0, scored.output
    assert call("export", out, "--to", "onnx", "-o", tmp_path / "file", "--no-verify").exit_code == 0
    assert "is not the model that" in refused("evaluate", out, "--against", f"{folder}:decoder", "--data", text)


def test_steps_of_unknown_number_are_told_of_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moment = 100.0
    monkeypatch.setattr("bitwright.cli.network.quantize.time.monotonic", lambda: moment)
    progress = Progress()
    progress(Step("calibrate", 0, 4))
    for place in range(1, 10):
        moment += 20
        progress(Step("simulation", place, 0))
    moment += 5
    progress(Step("round", 0, 2))
    told = [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert told == ["calibrate 0/4", "simulation 3", "simulation 6", "simulation 9", "round 0/2"]


def test_a_run_tells_of_every_simulation(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path / "source")
    value = source.network().values[source.network().inputs[0]]
    draws = torch.Generator().manual_seed(0)
    np.save(tmp_path / "a.npy", torch.randn(12, *(value.shape or ())[1:], generator=draws).numpy())
    steps: list[Step] = []
    quantize_network(source, int8(), tmp_path / "out", read_samples(tmp_path / "a.npy", [value]), steps.append)
    told = [step.done for step in steps if step.what == "simulation"]
    assert told == list(range(1, len(told) + 1)) and told
