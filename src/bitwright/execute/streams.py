"""The activations between two blocks, on disk: one row of tokens after the other.

A stream file is a plain array [rows, length, channels] mapped into memory, so that what is read and written belongs to
the page cache and not to the process. It is complete only once it has been closed and renamed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class StreamFile:
    """An array [rows, length, channels] of one float type at `path`."""

    path: Path
    shape: tuple[int, int, int]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return self.shape[0] * self.shape[1] * self.shape[2] * self.dtype.itemsize

    def create(self) -> None:
        """Reserve the file in full, so that a full disk is met now and not half way; raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.bytes)

    def is_whole(self) -> bool:
        """Whether a file of the right size is there."""
        return self.path.is_file() and self.path.stat().st_size == self.bytes

    def read(self, start: int, stop: int) -> Float[Tensor, "rows length channels"]:
        """These rows, copied."""
        return self._map(writable=False)[start:stop].clone()

    def write(self, start: int, rows: Float[Tensor, "rows length channels"]) -> None:
        """Put rows in their place."""
        self._map(writable=True)[start : start + len(rows)] = rows

    def sync(self) -> None:
        """Return only when the numbers are on the disk."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())

    def _map(self, writable: bool) -> Tensor:
        count = self.shape[0] * self.shape[1] * self.shape[2]
        return torch.from_file(str(self.path), shared=writable, size=count, dtype=self.dtype).reshape(self.shape)


def batches(first: int, stop: int, length: int, tokens: int = 2048) -> list[tuple[int, int]]:
    """Row ranges of about `tokens` tokens; fixed by the data alone, so that sums never depend on memory limits."""
    step = max(1, tokens // length)
    return [(start, min(start + step, stop)) for start in range(first, stop, step)]
