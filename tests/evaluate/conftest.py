"""A tiny model and its artifact, shared by all tests of this folder that do not change them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.store.artifact import Artifact
from evaluate.tiny_models import artifact_of, save


@pytest.fixture(scope="session")
def text(bookllama: Path) -> str:
    """About 700 tokens."""
    return (bookllama / "heldout.txt").read_text(encoding="utf-8")[:2400]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, bookllama: Path) -> Path:
    """A tiny model's folder; read only."""
    return save(tmp_path_factory.mktemp("models") / "untied", "untied", bookllama)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Artifact:
    """It at 3 bits; read only."""
    return artifact_of(model, tmp_path_factory.mktemp("artifacts") / "untied")
