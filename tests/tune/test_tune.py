from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bitwright.evaluate import EvaluateError
from bitwright.export import Dense, export
from bitwright.quantize import quantize
from bitwright.recipe.presets import PRESETS, nearest, regrouped
from bitwright.store.artifact import Artifact, open_artifact
from bitwright.store.batches import Batches
from bitwright.store.source import open_source
from bitwright.tune import Step, TuneError, Tuning, needed_bytes, tune
from evaluate.tiny_models import artifact_of, save
from tune.conftest import QUICK, ROWS


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_predictions_are_nearer_and_the_size_is_the_same(made: tuple[Path, Artifact], tmp_path: Path) -> None:
    source, artifact = open_source(made[0]), made[1]
    before = contents(artifact.path)
    tuned = tune(artifact, source, ROWS, tmp_path / "tuned", QUICK)
    notes = tuned.manifest["tuned"]
    assert notes["kept"] and notes["kl_after"] < notes["kl_before"]
    assert notes["kl_epochs"][-1] < notes["kl_epochs"][0]
    assert contents(artifact.path) == before
    assert not (tmp_path / "tuned" / "tuning").exists()
    for block, _ in artifact.parts():
        old, new = artifact.qtensors(block), tuned.qtensors(block)
        assert {n: (q.spec, q.codes.shape, q.bits) for n, q in old.items()} == {
            n: (q.spec, q.codes.shape, q.bits) for n, q in new.items()
        }
        kept = artifact.kept(block), tuned.kept(block)
        assert kept[0].keys() == kept[1].keys() and all(torch.equal(kept[0][n], kept[1][n]) for n in kept[0])
        if block is None:
            assert all(torch.equal(old[name].codes, new[name].codes) for name in old)
    moved = sum(weight.get("codes_moved", 0) for weight in tuned.manifest["weights"])
    differ = sum(
        int((artifact.qtensors(b)[n].codes != q.codes).sum())
        for b, _ in tuned.parts()
        for n, q in tuned.qtensors(b).items()
    )
    assert moved == differ > 0
    inside = [weight for weight in tuned.manifest["weights"] if weight["block"] is not None]
    assert inside and all("codes_moved" in weight and weight["chosen"].endswith(", tuned") for weight in inside)
    export(tuned, Dense(torch.float32), tmp_path / "dense")


def test_the_judge_of_the_run_is_a_reader_of_the_artifact(dense: tuple[Path, Artifact], tuned: Artifact) -> None:
    """The divergence that is noted is the one that transformers finds with the artifact's own numbers."""
    import transformers

    held_out = ROWS.rows[-ROWS.held_out :]
    original = transformers.AutoModelForCausalLM.from_pretrained(dense[0]).eval()
    for artifact, noted in ((dense[1], "kl_before"), (tuned, "kl_after")):
        student = transformers.AutoModelForCausalLM.from_pretrained(dense[0]).eval()
        for block, _ in artifact.parts():
            student.load_state_dict(artifact.parameters(block, torch.float32), strict=False)
        with torch.no_grad():
            log_p, log_q = (m(held_out).logits.double().log_softmax(-1) for m in (original, student))
        found = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
        assert abs(tuned.manifest["tuned"][noted] / found - 1) < 1e-3


@pytest.mark.parametrize("stop", [1, 13, 36])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    dense: tuple[Path, Artifact], tuned: Artifact, tmp_path: Path, stop: int
) -> None:
    source = open_source(dense[0])

    def give_up(step: Step) -> None:
        if step.done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(dense[1], source, ROWS, tmp_path / "stopped", QUICK, give_up)
    seen: list[int] = []
    tune(dense[1], source, ROWS, tmp_path / "stopped", QUICK, lambda step: seen.append(step.done))
    assert seen[:1] == {1: [1], 13: [13], 36: []}[stop]  # states after every fourth step and the last
    assert contents(tmp_path / "stopped") == contents(tuned.path)


def test_a_damaged_state_is_not_believed(dense: tuple[Path, Artifact], tuned: Artifact, tmp_path: Path) -> None:
    source = open_source(dense[0])

    def give_up(step: Step) -> None:
        if step.done == 22:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(dense[1], source, ROWS, tmp_path / "stopped", QUICK, give_up)
    file = tmp_path / "stopped" / "tuning" / "state1.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    seen: list[int] = []
    tune(dense[1], source, ROWS, tmp_path / "stopped", QUICK, lambda step: seen.append(step.done))
    assert seen[0] == 17  # from the state before
    assert contents(tmp_path / "stopped") == contents(tuned.path)


@pytest.mark.parametrize("preset", ["fp8", "nf4", "w8a16"])
def test_other_formats_move_and_are_never_worse(dense: tuple[Path, Artifact], tmp_path: Path, preset: str) -> None:
    recipe = nearest(PRESETS[preset]())
    recipe = regrouped(recipe, 16) if preset == "nf4" else recipe
    artifact = quantize(dense[0], recipe, tmp_path / "artifact")
    tuned = tune(artifact, open_source(dense[0]), ROWS, tmp_path / "tuned", QUICK)
    notes = tuned.manifest["tuned"]
    assert notes["kept"] == (notes["kl_after"] < notes["kl_before"])
    assert {e.name: e.spec for e in tuned.entries} == {e.name: e.spec for e in artifact.entries}
    for block, _ in tuned.parts():
        for name, qtensor in tuned.qtensors(block).items():
            assert bool(torch.isfinite(qtensor.dequantize()).all())
            assert qtensor.bits == artifact.qtensors(block)[name].bits
    if preset == "nf4":
        assert notes["kept"] and any(weight["codes_moved"] for weight in tuned.manifest["weights"])


def test_one_that_was_damaged_since_is_made_anew(dense: tuple[Path, Artifact], tuned: Artifact, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(tuned.path, out)
    file = out / "blocks" / "00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    tune(dense[1], open_source(dense[0]), ROWS, out, QUICK)
    assert contents(out) == contents(tuned.path)


def test_where_it_does_not_help_codes_stay(dense: tuple[Path, Artifact], tmp_path: Path) -> None:
    wild = Tuning(epochs=1, rate=50.0, tokens=64)
    tuned = tune(dense[1], open_source(dense[0]), ROWS, tmp_path / "tuned", wild)
    notes = tuned.manifest["tuned"]
    assert not notes["kept"] and notes["kl_after"] >= notes["kl_before"]
    for block, _ in tuned.parts():
        for name, qtensor in tuned.qtensors(block).items():
            assert torch.equal(qtensor.codes, dense[1].qtensors(block)[name].codes)
            assert torch.equal(qtensor.dequantize(), dense[1].qtensors(block)[name].dequantize())


def test_a_finished_one_is_opened_again(dense: tuple[Path, Artifact], tuned: Artifact) -> None:
    source = open_source(dense[0])
    seen: list[Step] = []
    again = tune(dense[1], source, ROWS, tuned.path, QUICK, seen.append)
    assert not seen and again.manifest["tuned"]["kept"]
    with pytest.raises(ValueError, match="holds a different run"):
        tune(dense[1], source, ROWS, tuned.path, replace(QUICK, epochs=2))


def test_bad_input(dense: tuple[Path, Artifact], tuned: Artifact, bookllama: Path, tmp_path: Path) -> None:
    source, rows = open_source(dense[0]), ROWS
    with pytest.raises(TuneError, match="is the artifact itself"):
        tune(dense[1], source, rows, dense[1].path, QUICK)
    with pytest.raises(TuneError, match="too few"):
        tune(dense[1], source, Batches(rows.rows[:1], 0, "one"), tmp_path / "tuned", QUICK)
    with pytest.raises(EvaluateError, match="was not made from"):
        tune(
            dense[1],
            open_source(save(tmp_path / "other", "untied", bookllama, seed=1)),
            rows,
            tmp_path / "tuned",
            QUICK,
        )
    with pytest.raises(TuneError, match="is tuned already"):
        tune(tuned, source, rows, tmp_path / "again", QUICK)


def test_a_number_that_is_not_finite_ends_it(dense: tuple[Path, Artifact], tmp_path: Path) -> None:
    with pytest.raises(TuneError, match=r"became nan after \d+ steps"):
        tune(dense[1], open_source(dense[0]), ROWS, tmp_path / "tuned", replace(QUICK, rate=1e30))


def test_more_rows_at_a_time_need_more_memory(dense: tuple[Path, Artifact]) -> None:
    source = open_source(dense[0])
    few, many = (needed_bytes(dense[1], source, ROWS, Tuning(tokens=tokens)) for tokens in (64, 64_000))
    assert 0 < few < many


def test_the_first_artifact_is_left_as_it_was(dense: tuple[Path, Artifact], tuned: Artifact, tmp_path: Path) -> None:
    assert open_artifact(tuned.path).entries == dense[1].entries
    assert artifact_of(dense[0], tmp_path / "plain").manifest["digests"] == dense[1].manifest["digests"]
    assert open_artifact(dense[1].path).manifest == dense[1].manifest
