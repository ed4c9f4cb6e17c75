"""Models and finished runs of this folder, made once, and the server of attempts that are killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.attempts import Server
from engine.tiny import model, run


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of three blocks; read only."""
    return model(tmp_path_factory.mktemp("models") / "dense")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, dense: Path) -> Path:
    """What a run on it leaves that nothing disturbed; read only."""
    out = tmp_path_factory.mktemp("finished") / "out"
    run(dense, out)
    return out


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Runs attempts in processes of their own."""
    one = Server()
    yield one
    one.close()
