"""Activations on disk, and the batches they are read in."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from bitwright.execute import StreamFile, batches


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_come_back_as_they_were_written(dtype: torch.dtype, tmp_path: Path) -> None:
    file = StreamFile(tmp_path / "new" / "stream", (7, 3, 5), dtype)
    numbers = torch.randn(7, 3, 5).to(dtype)
    file.create()
    for start in (4, 0, 2, 6):
        file.write(start, numbers[start : start + 2])
    file.sync()
    assert torch.equal(file.read(0, 7), numbers)
    assert torch.equal(StreamFile(file.path, (7, 3, 5), dtype).read(2, 3), numbers[2:3])
    assert file.bytes == file.path.stat().st_size == 7 * 3 * 5 * dtype.itemsize


def test_what_was_read_is_a_copy(tmp_path: Path) -> None:
    file = StreamFile(tmp_path / "stream", (2, 3, 4), torch.float32)
    file.create()
    file.read(0, 1).fill_(7)
    assert not file.read(0, 2).any()


def test_rows_of_another_type_or_layout_are_written_as_the_numbers_they_are(tmp_path: Path) -> None:
    file = StreamFile(tmp_path / "stream", (2, 3, 4), torch.float32)
    numbers = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0)).bfloat16().permute(2, 1, 0)
    file.create()
    file.write(0, numbers)
    assert torch.equal(file.read(0, 2), numbers.float())


def test_a_file_of_the_right_size_is_kept_to_be_written_over(tmp_path: Path) -> None:
    file = StreamFile(tmp_path / "stream", (2, 3, 4), torch.float32)
    file.create()
    file.write(0, torch.ones(2, 3, 4))
    place = file.path.stat().st_ino
    file.create()
    assert file.path.stat().st_ino == place and file.is_whole()


def test_reading_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    file = StreamFile(tmp_path / "stream", (2, 3, 4), torch.float32)
    file.create()
    os.truncate(file.path, file.bytes - 1)
    with pytest.raises(OSError, match="stream: 1 bytes are missing"):
        file.read(1, 2)


def test_creating_takes_the_room_at_once_and_starts_from_zeros(tmp_path: Path) -> None:
    file = StreamFile(tmp_path / "stream", (64, 64, 64), torch.float32)
    file.path.write_bytes(b"\xff" * 5000)
    file.create()
    assert file.path.stat().st_blocks * 512 >= file.bytes
    assert not file.read(0, 64).any()


def test_a_full_disk_is_met_when_the_file_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    file = StreamFile(tmp_path / "stream", (2, 3, 4), torch.float32)
    with pytest.raises(OSError, match="No space"):
        file.create()
    assert not file.is_whole()


def test_a_missing_or_cut_file_is_not_whole(tmp_path: Path) -> None:
    file = StreamFile(tmp_path / "stream", (2, 3, 4), torch.float32)
    assert not file.is_whole()
    file.create()
    assert file.is_whole()
    os.truncate(file.path, file.bytes - 1)
    assert not file.is_whole()


@pytest.mark.parametrize(
    ("first", "stop", "length"), [(0, 1, 8), (3, 100, 300), (0, 7, 5000), (5, 5, 16), (0, 9, 4096)]
)
def test_batches_cover_every_row_once_in_order(first: int, stop: int, length: int) -> None:
    found = batches(first, stop, length)
    assert [row for start, end in found for row in range(start, end)] == list(range(first, stop))
    assert all((end - start) * length <= max(4096, length) for start, end in found)
