from __future__ import annotations

import json
from pathlib import Path

from bitwright.evaluate import Scores, write_scores
from bitwright.report.read import read_scores
from bitwright.store.artifact import Artifact

SCORES = Scores(
    perplexity=11.0,
    perplexity_original=10.0,
    perplexity_increase=1.0,
    kl_mean=0.1,
    kl_p999=0.9,
    top1_agreement=0.8,
    intervals={"kl_mean": (0.09, 0.11)},
    layers={"model.layers.0.mlp.up_proj": 20.0},
    bits_per_weight=4.25,
    bytes=1000,
    bytes_original=4000,
    tokens=47,
    windows=1,
    length=48,
    text="sha256:0",
    compute="float32",
)


def test_scores_are_written_beside_the_manifest(tmp_path: Path) -> None:
    write_scores(Artifact(tmp_path, {}), SCORES)
    assert json.loads((tmp_path / "scores.json").read_text()) == SCORES.to_plain()


def test_the_report_reads_what_is_written(tmp_path: Path) -> None:
    write_scores(Artifact(tmp_path, {}), SCORES)
    read = read_scores(tmp_path)
    assert read is not None and read.kl_mean is not None
    assert (read.kl_mean.value, read.kl_mean.interval) == (0.1, (0.09, 0.11))
    assert (read.perplexity_original is not None, read.bits_per_weight, read.bytes) == (True, 4.25, 1000)
    assert (read.tokens, read.text) == (47, "sha256:0")
