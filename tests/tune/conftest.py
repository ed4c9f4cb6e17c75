"""Tiny lively models and their artifacts, 3 bits with the embedding; read only."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.store.artifact import Artifact
from bitwright.store.source import open_source
from bitwright.tune import Tuning, tune
from engine.tiny import token_rows
from evaluate.tiny_models import artifact_of, save

QUICK = Tuning(epochs=4, rate=0.01, tokens=64)
ROWS = token_rows(40)  # 36 teach, four a step: nine steps an epoch, 36 in all


@pytest.fixture(scope="session", params=["untied", "experts", "transposed"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, bookllama: Path
) -> tuple[Path, Artifact]:
    """A model's folder and its artifact."""
    return make(request.param, tmp_path_factory, bookllama)


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory, bookllama: Path) -> tuple[Path, Artifact]:
    """The plain one of them."""
    return make("untied", tmp_path_factory, bookllama)


@pytest.fixture(scope="session")
def tuned(dense: tuple[Path, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The plain one, tuned."""
    return tune(dense[1], open_source(dense[0]), ROWS, tmp_path_factory.mktemp("tuned") / "artifact", QUICK)


def make(config: str, tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> tuple[Path, Artifact]:
    """A model's folder and its artifact, in a folder of their own."""
    folder = tmp_path_factory.mktemp(config)
    source = save(folder / "model", config, tokenizer)
    return source, artifact_of(source, folder / "artifact")
