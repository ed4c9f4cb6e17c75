"""The quantized rows on their way through a block, put aside on disk before the stage that is being rounded.

When a stage has been rounded, every batch goes on from where it was to what the next stage's linears read. So the whole
block runs once per batch however many stages it has, and a version of a stage is judged without what comes before it.
What is put aside is the little that the rest of the block still needs. A batch that goes on is written over, but for
what stays where it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from bitwright.execute import Program, StreamFile, read_at, write_at
from bitwright.recipe.plan import BlockJob, Stage

_LIMIT = 8 << 30  # bytes of one file; beyond that the disk is slower than the processor

Shape = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cut:
    """How far the batches of one shape are: the instructions that have run, and what to keep of them, in order."""

    program: Program
    done: frozenset[int] = frozenset()
    kept: tuple[int, ...] = ()

    def before(self, names: Iterable[str]) -> Cut:
        """The next cut: all has run that makes what these weights read."""
        wanted = [self.program.reads[name] for name in names]
        done = self.done | set(self.program.needed((*self.kept, self.program.stream), wanted))
        return Cut(self.program, done, tuple(self.program.kept(done)))

    @property
    def bytes(self) -> int:
        """Size of what is kept of a batch."""
        return sum(self.program.kinds[number].bytes for number in self.kept)

    def offset(self, number: int) -> int:
        """Where a kept value begins."""
        return sum(self.program.kinds[one].bytes for one in self.kept[: self.kept.index(number)])

    def moved(self, later: Cut) -> list[int]:
        """What the later cut keeps and this one does not have in the same place."""
        return [n for n in later.kept if n not in self.kept or self.offset(n) != later.offset(n)]


@dataclass(frozen=True, slots=True)
class _Aside:
    """A file of what is kept of every batch, at most `slot` bytes each."""

    path: Path
    slot: int

    def write(self, place: int, cut: Cut, values: Mapping[int, Tensor]) -> None:
        with open(self.path, "r+b" if self.path.exists() else "wb", buffering=0) as file:
            for number, value in values.items():
                write_at(file, place * self.slot + cut.offset(number), value)

    def read(self, place: int, cut: Cut, wanted: Collection[int]) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        with open(self.path, "rb", buffering=0) as file:
            for number in cut.kept:
                if number in wanted:
                    kind = cut.program.kinds[number]
                    found[number] = torch.empty(kind.shape, dtype=kind.dtype)
                    read_at(file, place * self.slot + cut.offset(number), found[number])
        return found


@final
class Passage:
    """All batches of a stream before the same stage of one block."""

    def __init__(
        self,
        programs: Mapping[Shape, Program],
        module: nn.Module,
        stream: StreamFile,
        ranges: list[tuple[int, int]],
        slot: int,
    ) -> None:
        self._cuts = {shape: Cut(program) for shape, program in programs.items()}
        self._start = self._cuts
        self._module, self._stream = module, stream
        self._places = {batch: place for place, batch in enumerate(ranges)}
        self._aside = _Aside(stream.path.parent / "aside", slot)

    def enter(self, stage: Stage) -> None:
        """Let every batch go on to what this stage's weights read; all before it are rounded now."""
        names = [step.name for step in stage.steps]
        cuts = {shape: cut.before(names) for shape, cut in self._cuts.items()}
        for batch, place in self._places.items():
            shape = self._shape(batch)
            moved = self._cuts[shape].moved(cuts[shape])
            if moved:
                self._aside.write(place, cuts[shape], self._values(batch, moved))
        self._cuts = cuts

    def restart(self) -> None:
        """Put all batches before the block again."""
        self._cuts = self._start

    def reads(self, names: Iterable[str], batch: tuple[int, int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What these weights of the stage read, and what the outputs of the writers among them are added to."""
        program = self._cuts[self._shape(batch)].program
        reads = {name: program.reads[name] for name in names}
        added = {name: program.added[name] for name in names if name in program.added}
        values = self._values(batch, {*reads.values(), *added.values()})
        return {n: values[v] for n, v in reads.items()}, {n: values[v] for n, v in added.items()}

    def output(self, batch: tuple[int, int]) -> Tensor:
        """The stream behind the block, with the weights as they are now."""
        program = self._cuts[self._shape(batch)].program
        return self._values(batch, [program.output])[program.output]

    def _shape(self, batch: tuple[int, int]) -> Shape:
        return batch[1] - batch[0], self._stream.shape[1]

    def _values(self, batch: tuple[int, int], wanted: Collection[int]) -> dict[int, Tensor]:
        """These values of a batch, from what was put aside."""
        cut = self._cuts[self._shape(batch)]
        program = cut.program
        places = program.needed((*cut.kept, program.stream), wanted)
        inputs = program.inputs(places, wanted)
        values = self._aside.read(self._places[batch], cut, inputs) if inputs & set(cut.kept) else {}
        if program.stream in inputs:
            values[program.stream] = self._stream.read(*batch)
        return program.run(places, values, wanted, self._module)


def slot_bytes(programs: Mapping[Shape, Program | None], job: BlockJob, batches: int) -> int | None:
    """Room that every batch needs at most; None if the block cannot stop inside.

    It can if it is a straight line for every shape, sees each weight, and its values fit on the disk.
    """
    slot = 0
    for program in programs.values():
        if program is None or any(step.name not in program.reads for step in job.steps):
            return None
        cut = Cut(program)
        for stage in job.stages:
            cut = cut.before(step.name for step in stage.steps)
            slot = max(slot, cut.bytes)
    return slot if programs and slot * batches <= _LIMIT else None
