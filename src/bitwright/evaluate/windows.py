"""The text as windows of equal length, all but the last, and in which batches they go through a model.

The last window is shorter. On disk its row is padded with zeros, so that a stream stays one plain array, but it runs
through the models at its own length: no padded position is ever computed with, let alone scored.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor

from bitwright.execute import batches
from bitwright.store.batches import DEFAULT_LENGTH, TextError, Tokenizer, windows


@final
@dataclass(frozen=True, slots=True)
class Batch:
    """Windows `start` to `stop`, of `length` tokens each."""

    start: int
    stop: int
    length: int


@final
@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """`rows`: token numbers, zeros behind the last window's `last` tokens. `digest`: sha256 of the text."""

    rows: Int64[Tensor, "windows length"]
    last: int
    digest: str

    def batches(self, tokens: int) -> list[Batch]:
        """All windows in order, about `tokens` tokens at a time; a shorter last window goes alone."""
        count, length = self.rows.shape
        whole = count if self.last == length else count - 1
        found = [Batch(start, stop, length) for start, stop in batches(0, whole, length, tokens)]
        return found if whole == count else [*found, Batch(whole, count, self.last)]

    def tokens(self, batch: Batch) -> Int64[Tensor, "rows tokens"]:
        """The token numbers of a batch."""
        return self.rows[batch.start : batch.stop, : batch.length]

    @property
    def predicted(self) -> Int64[Tensor, " windows"]:
        """How many tokens are predicted in each window: all but its first."""
        count, length = self.rows.shape
        return torch.tensor([length - 1] * (count - 1) + [self.last - 1])


def cut(text: str, tokenizer: Tokenizer, positions: int | None, length: int | None) -> Windows:
    """The text's windows of `length` tokens; None: what the model takes (`positions`; None: any), at most 2048.

    Raises TextError for a text that is empty or too short, and for a length that the model cannot take.
    """
    if positions is not None and length is not None and length > positions:
        raise TextError(f"length is {length}, but the model takes {positions} positions; use length <= {positions}.")
    if not text.strip():
        raise TextError("the text to evaluate on is empty; give a text like what the model will read.")
    if length is None:
        length = DEFAULT_LENGTH if positions is None else min(positions, DEFAULT_LENGTH)
    found = windows(text, tokenizer, length)
    if not found:
        raise TextError(
            f"the text to evaluate on is {len(text)} characters, too short: at least 2 tokens are needed, and many "
            "thousands for figures that mean something."
        )
    rows = torch.zeros((len(found), len(found[0])), dtype=torch.int64)
    for row, window in zip(rows, found, strict=True):
        row[: len(window)] = torch.tensor(window)
    return Windows(rows, len(found[-1]), "sha256:" + hashlib.sha256(text.encode()).hexdigest())
