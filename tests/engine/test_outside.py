"""What lies outside the blocks: kept bit for bit, or rounded where a rule names it."""

from __future__ import annotations

from pathlib import Path

import torch

from bitwright.numerics import Int, Spec, per_group
from bitwright.recipe.recipe import Recipe, Rule
from bitwright.store.artifact import open_artifact
from bitwright.store.source import open_source
from engine.tiny import RECIPE, run

EMBEDDING = "model.embed_tokens.weight"


def test_what_no_rule_names_is_kept_bit_for_bit(dense: Path, tmp_path: Path) -> None:
    artifact = run(dense, tmp_path, Recipe(RECIPE.rules[:1]))
    source = open_source(dense)
    kept = artifact.kept(None)
    assert kept.keys() == {name for name in source.parameters() if ".layers." not in name}
    assert all(torch.equal(kept[name], tensor) for name, tensor in source.read(kept).items())


def test_a_table_that_a_rule_names_is_rounded(dense: Path, finished: Path) -> None:
    artifact = open_artifact(finished)
    source = open_source(dense).read([EMBEDDING])[EMBEDDING]
    entry = next(entry for entry in artifact.entries if entry.block is None)
    assert entry.parameter == EMBEDDING and EMBEDDING not in artifact.kept(None)
    found = artifact.parameters(None)[EMBEDDING]
    assert 0 < (found - source).norm() < 0.01 * source.norm()


def test_its_report_says_that_it_was_rounded_without_data(dense: Path, tmp_path: Path) -> None:
    rules = (Rule("kind:head", Spec(Int(3), per_group(16))), Rule("*", RECIPE.rules[0].weights))
    entries = [one for one in run(dense, tmp_path, Recipe(rules)).manifest["weights"] if one["block"] is None]
    assert [one["name"] for one in entries] == ["lm_head"]
    assert entries[0]["chosen"] == "without data" and 0 < entries[0]["loss"] < entries[0]["loss_nearest"]
