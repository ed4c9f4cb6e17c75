"""The activations between two blocks, on disk: one row of tokens after the other.

A stream file is a plain array [rows, length, channels], read and written a batch at a time, so that all but that batch
belongs to the page cache and not to the process. It is believed only once whoever wrote it has noted its digest. Blocks
that hand several vectors on for every token (hyper-connections) have [rows, length, vectors, channels].
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, final

import torch
from jaxtyping import Float
from torch import Tensor

_ZEROS = 1 << 20  # bytes written at a time where the system cannot reserve room


@final
@dataclass(frozen=True, slots=True)
class StreamFile:
    """An array [rows, length, ...] of one float type at `path`."""

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return self.shape[0] * self._row_bytes

    @property
    def _row_bytes(self) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize

    def create(self) -> None:
        """Reserve the file in full, so that a full disk is met now and not half way; raises OSError.

        A file of this size that is there already is kept, to be written over: its room need not be found again.
        """
        if self.is_whole():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "wb") as file:
            _reserve(file, self.bytes)

    def is_whole(self) -> bool:
        """Whether a file of the right size is there."""
        return self.path.is_file() and self.path.stat().st_size == self.bytes

    def read(self, start: int, stop: int) -> Float[Tensor, "rows length ..."]:
        """These rows, copied."""
        rows = torch.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
        with open(self.path, "rb", buffering=0) as file:
            read_at(file, start * self._row_bytes, rows)
        return rows

    def write(self, start: int, rows: Float[Tensor, "rows length ..."]) -> None:
        """Put rows in their place."""
        assert rows.shape[1:] == self.shape[1:]
        with open(self.path, "r+b", buffering=0) as file:
            write_at(file, start * self._row_bytes, rows.to(self.dtype))

    def sync(self) -> None:
        """Return only when the numbers are on the disk."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())


def read_at(file: BinaryIO, offset: int, into: Tensor) -> None:
    """Fill a contiguous tensor with the bytes from `offset` on; OSError where the file ends before."""
    file.seek(offset)
    left = _bytes_of(into)
    while left:
        count = file.readinto(left)  # type: ignore[attr-defined]  # a raw file has it
        if not count:
            raise OSError(f"{file.name}: {len(left)} bytes are missing")
        left = left[count:]


def write_at(file: BinaryIO, offset: int, values: Tensor) -> None:
    """Put the bytes of a tensor down from `offset` on."""
    file.seek(offset)
    left = _bytes_of(values.detach().contiguous())
    while left:
        left = left[file.write(left) :]


def _bytes_of(values: Tensor) -> memoryview:
    return values.reshape(-1).view(torch.uint8).numpy().data if values.numel() else memoryview(b"")


def _reserve(file: BinaryIO, size: int) -> None:
    """Take the room of `size` bytes; what is there then is zeros."""
    if sys.platform != "darwin":
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, _ZEROS):  # pragma: no cover - no such call on macOS
        file.write(bytes(min(_ZEROS, size - start)))


def batches(first: int, stop: int, length: int, tokens: int = 1024) -> list[tuple[int, int]]:
    """Row ranges of about `tokens` tokens; fixed by the data alone, so that sums never depend on memory limits."""
    step = max(1, tokens // length)
    return [(start, min(start + step, stop)) for start in range(first, stop, step)]
