"""Never worse than rounding to nearest, and weights of which nothing is known."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bitwright.quantize import quantize
from bitwright.recipe.presets import PRESETS, asymmetric
from bitwright.recipe.recipe import Recipe, Rule, Search
from bitwright.store.artifact import Artifact
from bitwright.store.batches import Batches, read_batches
from bitwright.store.source import open_source
from engine.tiny import ROUTED, model, token_rows
from store.small_models import GROUPED

GUARDED = re.compile(r"rounded to nearest: held-out block error (\S+) instead of (\S+)")


def assert_never_worse(artifact: Artifact) -> None:
    """Every block's held-out error is at most that of the block with all its weights at Nearest."""
    for block in artifact.manifest["blocks"]:
        assert 0 < block["error"] <= block["error_nearest"], block["name"]


@pytest.mark.parametrize("config", ["dense", "routed", "transposed"])
@pytest.mark.parametrize("bits", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_a_random_model_is_never_worse_than_nearest(config: str, bits: int, tmp_path: Path) -> None:
    recipe = Recipe((Rule("*", asymmetric(bits, 16)),))
    assert_never_worse(quantize(model(tmp_path / "m", config), recipe, tmp_path / "out", token_rows(20, 32, bits)))


@pytest.mark.parametrize("preset", ["w2a16", pytest.param("w3a16", marks=pytest.mark.slow)])
def test_a_trained_model_is_never_worse_than_nearest(preset: str, bookllama: Path, tmp_path: Path) -> None:
    source = open_source(bookllama)
    batches = read_batches(bookllama / "calibration.txt", source.tokenizer(), 512, rows=20, length=64)
    artifact = quantize(source, PRESETS[preset](), tmp_path, batches)
    assert_never_worse(artifact)
    first = artifact.manifest["blocks"][0]
    assert first["error"] < 0.3 * first["error_nearest"]


def other_words(few: int) -> Batches:
    """Rows to fit of a few words, held-out rows of quite other ones."""
    words = torch.Generator().manual_seed(0)
    fitted = torch.randint(3, 3 + few, (18, 16), generator=words)
    return Batches(torch.cat([fitted, torch.randint(80, 160, (4, 16), generator=words)]), 4, f"words {few}")


def weights_of(artifact: Artifact) -> list[Any]:
    """The manifest's entries of weights."""
    found: list[Any] = artifact.manifest["weights"]
    return found


@pytest.fixture(scope="module")
def planted(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A run whose fitted rows mislead about the held-out ones."""
    recipe = Recipe((Rule("*", asymmetric(3, 16)),))
    return quantize(dense, recipe, tmp_path_factory.mktemp("planted") / "out", other_words(50))


def test_where_feedback_is_worse_on_held_out_rows_nearest_is_kept_with_a_note(planted: Artifact) -> None:
    kept = [weight for weight in weights_of(planted) if weight["chosen"] == "nearest"]
    assert kept
    for weight in kept:
        assert weight["loss"] == pytest.approx(weight["loss_nearest"])
        found = GUARDED.fullmatch(weight["notes"][-1])
        assert found is not None and float(found[1]) <= float(found[2])


def test_without_the_guard_nearest_is_not_kept(dense: Path, planted: Artifact, tmp_path: Path) -> None:
    recipe = Recipe((Rule("*", asymmetric(3, 16)),), search=Search(guard=False))
    artifact = quantize(dense, recipe, tmp_path / "out", other_words(50))
    assert not any(weight["chosen"] == "nearest" for weight in weights_of(artifact))
    pairs = zip(planted.manifest["blocks"], artifact.manifest["blocks"], strict=True)
    assert next(pairs)[0]["error"] <= artifact.manifest["blocks"][0]["error"]


@pytest.mark.parametrize("few", [2, 10])
def test_rows_that_mislead_do_not_make_a_block_worse_than_nearest(few: int, dense: Path, tmp_path: Path) -> None:
    recipe = Recipe((Rule("*", asymmetric(3, 16)),))
    assert_never_worse(quantize(dense, recipe, tmp_path / "out", other_words(few)))


def starved(folder: Path) -> Path:
    """A mixture with one expert for each token, whose router never chooses the third and the fourth."""
    config = transformers.MixtralConfig(**GROUPED, **{**ROUTED, "num_experts_per_tok": 1})
    torch.manual_seed(0)
    whole = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in whole.named_parameters():
        parameter.data.normal_(1 if parameter.dim() == 1 else 0, 0.1)
        if name.endswith("mlp.gate.weight"):
            parameter.data[1:] = parameter.data[0] * torch.tensor([-1.0, 0.5, -0.5])[:, None]
    whole.save_pretrained(folder)
    return folder


def test_an_expert_that_no_token_reached_is_rounded_to_nearest_with_a_note(tmp_path: Path) -> None:
    recipe = Recipe((Rule("*", asymmetric(3, 16)),))
    artifact = quantize(starved(tmp_path / "model"), recipe, tmp_path / "out", token_rows())
    note = "no calibration token reached it: rounded to nearest"
    experts = [weight for weight in weights_of(artifact) if weight["index"] is not None]
    assert len(experts) == 2 * 2 * 4
    for weight in experts:
        assert (weight["notes"] == [note] and weight["chosen"] == "nearest") == (weight["index"] > 1), weight["name"]


def test_without_held_out_rows_there_is_nothing_to_decide_by(dense: Path, tmp_path: Path) -> None:
    recipe = Recipe((Rule("*", asymmetric(3, 16)),))
    artifact = quantize(dense, recipe, tmp_path, replace(token_rows(), held_out=0, digest="none"))
    assert all(block["error"] is block["error_nearest"] is None for block in artifact.manifest["blocks"])
    assert {weight["chosen"] for weight in weights_of(artifact)} == {"target 0"}
