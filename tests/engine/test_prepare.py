"""Preparing a network: edits are kept where held-out outputs are no worse, and the folder says what happened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitwright.engine.prepare import Prepared, prepare
from bitwright.engine.progress import OnStep, Step, ignore
from bitwright.engine.trial import Trial
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.recipe.network import NetworkRecipe, find_network_recipe
from bitwright.store.checkpoints import Checkpoints
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.sample_set import Samples, Stacking
from networks import exported, network, sample


def samples_for(name: str, source: OnnxSource, count: int = 24) -> Samples:
    held = dict(zip(source.network().inputs, sample(network(name), count, seed=3), strict=True))

    def read(index: int) -> tuple[str, dict[str, Tensor]]:
        return str(index), {key: value[index : index + 1] for key, value in held.items()}

    return Samples(count, "random", Stacking(True, None), read)


def prepared(source: OnnxSource, name: str, recipe: NetworkRecipe, folder: Path, on_step: OnStep = ignore) -> Prepared:
    checkpoints = Checkpoints(folder / "checkpoints", recipe.target)
    return prepare(source, recipe, samples_for(name, source), folder / "out", checkpoints, on_step)


def change(source: OnnxSource, edited: OnnxSource, name: str) -> float:
    feeds = samples_for(name, source).first(8)
    (wanted,), (found,) = (OnnxRunner(one).run(feeds).values() for one in (source, edited))
    return float((wanted - found).norm() / wanted.norm())


@pytest.mark.parametrize(
    ("name", "recipe", "most"),
    [
        ("residual", find_network_recipe("int8_per_tensor", "x86-vnni"), 1e-5),
        ("attention", find_network_recipe("int8_smooth", "x86-vnni"), 1e-5),
        # a quarter of the samples judge, and may reach beyond what levelling saw
        ("depthwise", NetworkRecipe(weight_bits=4, activation_bits=4, level=True), 0.02),
    ],
)
def test_edits_that_are_asked_for_keep_what_the_network_computes(
    tmp_path: Path, name: str, recipe: NetworkRecipe, most: float
) -> None:
    source = exported(network(name), tmp_path)
    (tmp_path / "out").mkdir()
    steps: list[Step] = []
    made = prepared(source, name, recipe, tmp_path, steps.append)
    assert made.edits and change(source, made.source, name) < most
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"float.onnx"}
    assert steps[-1].done == steps[-1].total == len(made.edits)
    for entry in made.edits.values():
        assert entry["is_kept"] == any(one["output_noise"] <= entry["output_noise_before"] for one in entry["tried"])


@pytest.mark.parametrize("is_worse", [True, False])
def test_an_edit_is_kept_if_the_outputs_are_no_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_worse: bool
) -> None:
    source = exported(network("residual"), tmp_path)
    (tmp_path / "out").mkdir()
    noise = iter([0.5, 0.6 if is_worse else 0.5])
    monkeypatch.setattr(Trial, "noise", lambda self, draft: next(noise))
    recipe = NetworkRecipe(equalize=True)
    made = prepared(source, "residual", recipe, tmp_path)
    assert made.edits["equalize"]["is_kept"] is not is_worse
    plain = prepared(source, "residual", NetworkRecipe(), tmp_path).source
    weights = [node.inputs[1] for node in plain.network().nodes if node.op == "Conv"]
    held, kept = plain.read(weights), made.source.read(weights)
    assert all(torch.equal(held[name], kept[name]) for name in weights) is is_worse


def test_without_edits_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = exported(network("residual"), tmp_path)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr("bitwright.engine.prepare.Trial", None)
    made = prepared(source, "residual", NetworkRecipe(), tmp_path)
    assert made.edits == {} and change(source, made.source, "residual") < 1e-5
