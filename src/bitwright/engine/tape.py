"""What the original block's linears read, written down during its one run so that no stage has to run it again.

A block has few distinct inputs (four in most transformers) and few writers of the stream. Their values for all rows go
to files beside the streams; a stage then reads them instead of running the original block up to that stage. Where the
files would be too large the original is run anew for every stage, which gives the same numbers. The next block writes
over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from bitwright.execute import StreamFile
from bitwright.graph import WeightView
from bitwright.recipe.plan import BlockJob

_LIMIT = 8 << 30  # bytes of tape; beyond that the disk is slower than the processor


@final
@dataclass(frozen=True, slots=True)
class Tape:
    """Files by key: `in:NAME` for the input of a weight (the first of those that share it), `add:NAME` for a writer."""

    files: dict[str, StreamFile]
    leaders: dict[str, str]

    def write(self, key: str, start: int, rows: int, values: Tensor) -> None:
        """Put the values of these rows down; what does not come one vector per token is left out."""
        file = self.files.get(key)
        if file is not None and values.numel() == rows * file.shape[1] * file.shape[2]:
            file.write(start, values.reshape(rows, file.shape[1], file.shape[2]))

    def input(self, name: str, start: int, stop: int) -> Tensor | None:
        """What the weight read for these rows, [tokens, in]; only for the first of those that share an input."""
        file = self.files.get(f"in:{name}")
        return None if file is None else file.read(start, stop).flatten(0, 1)

    def added(self, name: str, start: int, stop: int) -> Tensor | None:
        """What the output of a writer was added to, [tokens, out]."""
        file = self.files.get(f"add:{name}")
        return None if file is None else file.read(start, stop).flatten(0, 1)

    def products(self, start: int, rows: int) -> Callable[[WeightView, Tensor], None]:
        """The callback for the products of these rows."""

        def note(view: WeightView, values: Tensor) -> None:
            if self.leaders.get(view.name) == view.name:
                self.write(f"in:{view.name}", start, rows, values)

        return note

    def adds(self, start: int, rows: int) -> Callable[[WeightView, Tensor], None]:
        """The callback for what the outputs of these rows are added to."""
        return lambda view, other: self.write(f"add:{view.name}", start, rows, other)

    def create(self) -> None:
        """Reserve the files."""
        for file in self.files.values():
            file.create()


@dataclass(frozen=True, slots=True)
class Held:
    """What linears read, and what the stream is, as types."""

    reads: torch.dtype
    stream: torch.dtype


def plan_tape(job: BlockJob, folder: Path, rows: int, length: int, held: Held) -> Tape | None:
    """The tape of a block; None if there would be nothing to write or too much."""
    files: dict[str, StreamFile] = {}
    leaders: dict[str, str] = {}
    first: dict[int, str] = {}
    for number, step in enumerate(job.steps):
        if step.linear.routed:
            continue
        out, width = step.linear.view.shape
        leaders[step.name] = first.setdefault(step.linear.source, step.name)
        if leaders[step.name] == step.name:
            files[f"in:{step.name}"] = StreamFile(folder / f"tape.{number}.in", (rows, length, width), held.reads)
        if step.linear.writes_stream:
            files[f"add:{step.name}"] = StreamFile(folder / f"tape.{number}.add", (rows, length, out), held.stream)
    return Tape(files, leaders) if files and total_bytes(files.values()) <= _LIMIT else None


def total_bytes(files: Iterable[StreamFile]) -> int:
    """Disk space of these files."""
    return sum(file.bytes for file in files)
