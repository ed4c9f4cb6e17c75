from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from bitwright.evaluate import EvaluateError, Progress, Scores, Setting, evaluate, measure
from bitwright.evaluate.compare import default_compute, positions
from bitwright.store.artifact import Artifact
from bitwright.store.batches import TextError, windows
from bitwright.store.source import Source, open_source
from evaluate.tiny_models import CONFIGS, artifact_of, reference, save

FIGURES = ("perplexity", "perplexity_original", "perplexity_increase", "kl_mean", "kl_p999", "top1_agreement")


def figures(scores: Scores) -> list[float]:
    plain = scores.to_plain()
    return [plain[name] for name in FIGURES]


@pytest.fixture(scope="module")
def source(model: Path) -> Source:
    return open_source(model)


@pytest.fixture(scope="module")
def scores(artifact: Artifact, source: Source, text: str) -> Scores:
    return evaluate(artifact, source, text, length=48)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_figures_equal_those_of_whole_models(name: str, tmp_path: Path, bookllama: Path, text: str) -> None:
    folder = save(tmp_path / "model", name, bookllama)
    artifact = artifact_of(folder, tmp_path / "out")
    scores = evaluate(artifact, open_source(folder), text, length=48)
    tokens = reference(folder, artifact, text, 48)
    assert scores.tokens == len(tokens.loss) and scores.tokens % 47 != 0  # the last window is shorter
    assert scores.kl_mean > 1e-3  # so that the comparison means something
    after, before = np.exp(tokens.loss.mean()), np.exp(tokens.loss_original.mean())
    kl, tail = tokens.divergence.mean(), np.quantile(tokens.divergence, 0.999)
    np.testing.assert_allclose(figures(scores)[:2], [after, before], rtol=1e-4)
    np.testing.assert_allclose(scores.perplexity_increase, after - before, rtol=1e-3)
    np.testing.assert_allclose(figures(scores)[3:], [kl, tail, tokens.agrees.mean()], rtol=1e-4)


@pytest.mark.parametrize("tokens", [1, 100, 10_000])
def test_the_batch_size_changes_nothing(
    tokens: int, artifact: Artifact, source: Source, text: str, scores: Scores
) -> None:
    other = measure(artifact, source, text, Setting(48, tokens=tokens))
    np.testing.assert_allclose(figures(other), figures(scores), rtol=1e-5)


def test_every_interval_contains_its_figure(scores: Scores) -> None:
    assert scores.intervals.keys() == set(FIGURES)
    for name, figure in zip(FIGURES, figures(scores), strict=True):
        low, high = scores.intervals[name]
        assert low <= figure <= high and low < high


def test_a_single_short_window_has_no_intervals(artifact: Artifact, source: Source) -> None:
    scores = evaluate(artifact, source, "It was a dark and stormy night.")
    assert scores.windows == 1 and scores.length == scores.tokens + 1 < 64
    assert scores.intervals == {}


def test_sizes_count_all_that_is_stored(scores: Scores, artifact: Artifact, model: Path) -> None:
    assert scores.bits_per_weight == pytest.approx(3 + 32 / 16)
    assert scores.bytes == artifact.bytes
    files = [model / "model.safetensors", *model.glob("*.json")]
    assert scores.bytes_original == pytest.approx(sum(file.stat().st_size for file in files), rel=0.01)
    assert scores.layers.keys() == {entry.name for entry in artifact.entries}


def test_eight_bits_are_nearly_the_original(tmp_path: Path, model: Path, source: Source, text: str) -> None:
    scores = evaluate(artifact_of(model, tmp_path / "out", bits=8), source, text)
    assert 0 < scores.kl_mean < 2e-3 and scores.top1_agreement > 0.9
    assert scores.length == 64  # the model's positions


def test_the_same_inputs_make_the_same_scores(artifact: Artifact, source: Source, text: str, scores: Scores) -> None:
    assert evaluate(artifact, source, text, length=48) == scores


def test_the_float_type_can_be_chosen_and_is_named(
    artifact: Artifact, source: Source, text: str, scores: Scores
) -> None:
    coarse = measure(artifact, source, text, Setting(48, compute=torch.bfloat16))
    assert (coarse.compute, scores.compute) == ("bfloat16", "float32")
    assert coarse.perplexity == pytest.approx(scores.perplexity, rel=0.05)
    assert coarse.layers == scores.layers  # of what is stored, not of what is computed with


def test_a_small_model_is_compared_in_float32(bookllama: Path) -> None:
    assert default_compute(open_source(bookllama)) == torch.float32


def test_nothing_is_left_in_the_working_folder(tmp_path: Path, artifact: Artifact, source: Source) -> None:
    seen: list[list[str]] = []
    evaluate(artifact, source, "Once upon a time", 4, tmp_path / "work", lambda _: seen.append(found(tmp_path)))
    assert seen[0] == ["artifact", "original"] and found(tmp_path) == []


def found(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*") if file.is_file())


def test_progress_runs_through_blocks_and_logits(artifact: Artifact, source: Source, text: str) -> None:
    seen: list[Progress] = []
    measure(artifact, source, text, Setting(48, tokens=480), seen.append)
    assert seen[:2] == [Progress("blocks", 1, 2), Progress("blocks", 2, 2)]
    assert seen[-1].stage == "logits" and seen[-1].done == seen[-1].total > 1


def test_another_source_is_refused(tmp_path: Path, artifact: Artifact, bookllama: Path, text: str) -> None:
    other = open_source(save(tmp_path, "untied", bookllama, seed=1))
    with pytest.raises(EvaluateError, match="was not made from"):
        evaluate(artifact, other, text)


@pytest.mark.parametrize(
    ("bad", "length", "message"),
    [
        (" \n", None, "is empty"),
        ("Once upon a time", 65, "takes 64 positions"),
        ("Once upon a time", 1, "at least 2 tokens"),
        ("Once upon a time", 0, "at least 2 tokens"),
    ],
)
def test_an_unusable_text_or_length_is_refused(
    bad: str, length: int | None, message: str, artifact: Artifact, source: Source
) -> None:
    with pytest.raises(TextError, match=message):
        evaluate(artifact, source, bad, length)


def test_logits_that_are_not_finite_are_refused_with_their_window(tmp_path: Path, bookllama: Path, text: str) -> None:
    tokens = windows(text, transformers.AutoTokenizer.from_pretrained(bookllama), 48)
    late = next(token for token in tokens[2] if token not in tokens[0] + tokens[1])

    def overflow(model: transformers.PreTrainedModel) -> None:
        model.get_input_embeddings().weight.data[late] = 3e38  # whose mean is infinite

    folder = save(tmp_path / "model", "transposed", bookllama, overflow)
    with pytest.raises(EvaluateError, match="window 2 of the text: original's logits are not finite"):
        evaluate(artifact_of(folder, tmp_path / "out", embedding=False), open_source(folder), text, 48)


def test_a_full_disk_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, artifact: Artifact, source: Source, text: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(EvaluateError, match="no room for the activations.*workdir"):
        evaluate(artifact, source, text, workdir=tmp_path)


@pytest.mark.parametrize("name", ["untied", "transposed"])
def test_positions_are_found_under_any_name(name: str, tmp_path: Path, bookllama: Path) -> None:
    assert positions(open_source(save(tmp_path, name, bookllama)).skeleton()) == 64


def test_a_model_without_positions_takes_any_length() -> None:
    assert (
        positions(transformers.BloomForCausalLM(transformers.BloomConfig(hidden_size=8, n_head=1, n_layer=1))) is None
    )
