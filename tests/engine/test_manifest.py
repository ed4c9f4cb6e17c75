"""The manifest: the same inputs make the same bytes, and nothing in it tells where or when it was made."""

from __future__ import annotations

import getpass
import json
import re
import socket
from pathlib import Path

import pytest
import torch

from bitwright.store.source import open_source
from engine.tiny import CONFIGS, contents, model, run


def test_two_runs_leave_the_same_bytes(dense: Path, finished: Path, tmp_path: Path) -> None:
    torch.rand(7)  # another state of the global generator
    run(dense, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(finished)


def test_the_same_model_in_another_place_leaves_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    run(model(tmp_path / "elsewhere"), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(finished)


def test_no_file_holds_a_path_a_host_a_user_or_a_time(dense: Path, finished: Path) -> None:
    for name, data in contents(finished).items():
        text = data.decode("latin-1")
        for word in (str(finished), str(dense), "/tmp/"):
            assert word not in text, name
        if name.endswith(".json"):
            assert not re.search(rf"\b{re.escape(socket.gethostname())}\b|{re.escape(str(Path.home()))}/", text), name
            assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", text), name
            assert not re.search(rf"\b{getpass.getuser()}\b|seconds|hostname", text), name


@pytest.mark.parametrize("config", CONFIGS)
def test_every_tensor_of_the_source_is_quantized_or_kept_for_a_reason(config: str, tmp_path: Path) -> None:
    source = open_source(model(tmp_path / "model", config))
    manifest = run(source.path, tmp_path / "out").manifest
    quantized = {weight["parameter"] for weight in manifest["weights"]}
    kept = {one["name"]: one["reason"] for one in manifest["kept"]}
    assert quantized | kept.keys() == set(source.parameters())
    assert not quantized & kept.keys()
    assert all(kept.values())


@pytest.mark.parametrize("config", CONFIGS)
def test_every_figure_is_finite(config: str, tmp_path: Path) -> None:
    run(model(tmp_path / "model", config), tmp_path / "out")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in the manifest")

    json.loads((tmp_path / "out" / "manifest.json").read_text(), parse_constant=refuse)
