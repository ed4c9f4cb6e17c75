"""A piece counts only if its key is right and both of its files are what was written."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from bitwright.store.pieces import note_of, read_arrays, read_piece, write_piece

ARRAYS = {"k.a": torch.arange(6.0).reshape(2, 3), "k.b": torch.tensor([1], dtype=torch.int64), "q.a": torch.ones(2)}
REPORT = {"names": ["a", "b"], "error": math.nan}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_piece(tmp_path / "one.safetensors", "key", ARRAYS, REPORT)
    return tmp_path / "one.safetensors"


def test_what_was_written_is_read(file: Path) -> None:
    piece = read_piece(file, "key")
    assert piece is not None and piece.report["names"] == ["a", "b"] and math.isnan(piece.report["error"])
    for name, tensor in piece.arrays().items():
        assert torch.equal(tensor, ARRAYS[name]) and tensor.dtype == ARRAYS[name].dtype
    assert read_arrays(file, "k.").keys() == {"a", "b"}


def test_a_piece_of_another_key_is_none_and_not_damaged(file: Path) -> None:
    heard: list[str] = []
    assert read_piece(file, "another", heard.append) is None
    assert read_piece(file.with_name("two.safetensors"), "key", heard.append) is None
    assert not heard


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.unlink(), "one.safetensors is missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\x7f"), "digest of one differs"),
        (lambda file: note_of(file).write_text("{"), "one.json cannot be read"),
        (lambda file: note_of(file).write_text(note_of(file).read_text().replace('"b"', '"c"')), "digest of one"),
    ],
)
def test_a_damaged_piece_is_not_believed_and_said(change: object, said: str, file: Path) -> None:
    assert callable(change)
    change(file)
    heard: list[str] = []
    assert read_piece(file, "key", heard.append) is None
    (text,) = heard
    assert said in text


def test_a_note_that_is_gone_leaves_nothing_to_believe(file: Path) -> None:
    note_of(file).unlink()
    heard: list[str] = []
    assert read_piece(file, "key", heard.append) is None and not heard
