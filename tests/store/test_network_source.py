"""Models by the name that the user gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.store.network_source import ModelKind, kind_of, open_network
from bitwright.store.source_error import SourceError
from networks import exported, network


def test_kinds_are_told_apart(llama: Path, tmp_path: Path) -> None:
    assert kind_of(str(llama)) is ModelKind.CAUSAL
    assert kind_of("m.onnx") is ModelKind.ONNX
    assert kind_of("package.module:factory") is ModelKind.MODULE
    (tmp_path / "m.pt").write_bytes(b"")
    for name, message in (
        (str(tmp_path / "m.pt"), "does not end in .onnx"),
        ("nowhere", "no such file or folder; give an .onnx file"),
        ("a folder:x", "no such file or folder"),
        (str(tmp_path), "no config.json"),
    ):
        with pytest.raises(SourceError, match=message):
            kind_of(name)


def test_what_lies_there_goes_before_what_the_name_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("package:factory").write_bytes(b"")
    with pytest.raises(SourceError, match="does not end in .onnx"):
        kind_of("package:factory")


def test_a_network_of_every_kind_is_opened(tmp_path: Path) -> None:
    module = network("residual")
    source = exported(module, tmp_path)
    assert open_network(str(source.path), tmp_path).digest() == source.digest()
    made = open_network("torch.nn:ReLU", tmp_path / "out", (torch.ones(2, 3),))
    assert made.path == tmp_path / "out" / "model.onnx"
    assert [node.op for node in made.network().nodes] == ["Relu"]


def test_what_cannot_be_opened_says_why(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="block by block, not as a whole"):
        open_network(str(llama), tmp_path)
    with pytest.raises(SourceError, match="give a --loader, whose first batch"):
        open_network("package.module:factory", tmp_path)
    with pytest.raises(SourceError, match="no such file"):
        open_network(str(tmp_path / "m.onnx"), tmp_path)
