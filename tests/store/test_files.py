"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from bitwright.store import files
from bitwright.store.files import file_digest, read_json, text_digest, write_bytes, write_json, write_tensors
from bitwright.store.safetensors_file import DTYPES, map_tensors, read_header

BITS = torch.Generator().manual_seed(0)
TENSORS = {
    name: torch.randint(0, 2 if dtype == torch.bool else 256, (3, 5 * dtype.itemsize), generator=BITS)
    .to(torch.uint8)
    .view(dtype)
    for name, dtype in DTYPES.items()
} | {"empty": torch.empty(0, 4), "scalar": torch.tensor(2.5), "transposed": torch.arange(12.0).reshape(3, 4).mT}


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit, NaN too."""
    left, right = (x.contiguous().reshape(-1).view(torch.uint8) for x in (one, other))
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(left, right)


def test_the_safetensors_library_reads_every_type_as_it_was(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t.safetensors", TENSORS, {"format": "pt"})
    found = load_file(tmp_path / "t.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert same(found[name], tensor), name
    with safe_open(tmp_path / "t.safetensors", framework="pt") as archive:
        assert archive.metadata() == {"format": "pt"}


def test_our_own_reader_reads_them_too_and_every_tensor_is_aligned(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t.safetensors", TENSORS)
    header = read_header(tmp_path / "t.safetensors")
    assert all(stretch.begin % stretch.tensor.dtype.itemsize == 0 for stretch in header.values())
    found = map_tensors(tmp_path / "t.safetensors", list(header.values()))
    assert all(same(found[name], tensor) for name, tensor in TENSORS.items())


def test_the_bytes_do_not_depend_on_the_order_of_the_tensors(tmp_path: Path) -> None:
    write_tensors(tmp_path / "one", TENSORS)
    write_tensors(tmp_path / "other", dict(reversed(TENSORS.items())))
    assert file_digest(tmp_path / "one") == file_digest(tmp_path / "other")


def test_no_tensors_make_a_file_too(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t", {})
    assert load_file(tmp_path / "t") == {}


Write = Callable[[Path, int], None]
WRITERS: dict[str, Write] = {
    "bytes": lambda path, number: write_bytes(path, bytes([number]) * 1000),
    "json": lambda path, number: write_json(path, {"number": number, "more": [0.1] * 100}),
    "tensors": lambda path, number: write_tensors(path, {"number": torch.full((1000,), number)}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_others_may_read_what_the_user_lets_them(kind: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    WRITERS[kind](tmp_path / "deep" / "file", 1)
    assert (tmp_path / "deep" / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failure_before_the_end_leaves_the_old_file(
    moment: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    WRITERS[kind](tmp_path / "file", 1)
    before = (tmp_path / "file").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, moment, full)
        for path in (tmp_path / "file", tmp_path / "fresh"):
            with pytest.raises(OSError, match="No space"):
                WRITERS[kind](path, 2)
    assert (tmp_path / "file").read_bytes() == before
    assert not (tmp_path / "fresh").exists()
    WRITERS[kind](tmp_path / "file", 2)
    assert (tmp_path / "file").read_bytes() != before
    assert {path.name for path in tmp_path.iterdir()} == {"file", "fresh.part"}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_kill_before_the_end_leaves_the_old_file_and_one_draft(moment: str, kind: str, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path / "file", 1)
    before = (tmp_path / "file").read_bytes()
    child = os.fork()
    if child == 0:
        setattr(files.os, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        WRITERS[kind](tmp_path / "file", 2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "file").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"file", "file.part"}


def test_numbers_that_json_does_not_know_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_json_comes_back_with_sorted_keys(tmp_path: Path) -> None:
    data = {"b": 0.1 + 0.2, "a": [1, None, "é"], "c": {"z": 1e-300, "y": True}}
    write_json(tmp_path / "one", data)
    write_json(tmp_path / "other", dict(reversed(data.items())))
    assert read_json(tmp_path / "one") == data
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe{}", b"{} {}"])
def test_damaged_json_names_the_file_and_the_remedy(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "note.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"note\.json is damaged .*; delete it and run the same command again"):
        read_json(tmp_path / "note.json")


def test_a_digest_of_data_survives_a_trip_through_json_and_tells_values_apart() -> None:
    data = {"b": [0.1, 1e-30, "ü"], "a": {"y": 1, "x": None}}
    assert text_digest(data) == text_digest(json.loads(json.dumps(data)))
    assert text_digest(data) == text_digest(dict(reversed(data.items())))
    assert text_digest(data) != text_digest(data | {"b": [0.1, 1e-30, "u"]})
