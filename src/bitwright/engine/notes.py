"""What the one run of the original block leaves behind for all stages: the tape, and the block as a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from bitwright.engine.collect import Pass
from bitwright.engine.passage import Passage, Shape, slot_bytes
from bitwright.engine.tape import Tape
from bitwright.execute import Program, Recorder, StreamFile, short_factors
from bitwright.graph import Watch, ignore
from bitwright.recipe.plan import BlockJob


@final
@dataclass(slots=True)
class Notes:
    """The tape, given up where a weight is used twice in one run, and a program for every batch shape."""

    tape: Tape | None
    programs: dict[Shape, Program | None] = field(default_factory=dict)

    def run(self, block: Pass, stream: Tensor, start: int) -> Tensor:
        """The original block's output for these rows, from `start` on."""
        with short_factors():
            return self._run(block, stream, start)

    def _run(self, block: Pass, stream: Tensor, start: int) -> Tensor:
        rows, length = stream.shape[:2]
        if (rows, length) not in self.programs:
            return self._record(block, stream, start)
        if self.tape is None:
            return block.run(block.original, stream, start)
        tape = self.tape
        with Watch(_parameters(block), tape.products(start, rows), tape.adds(start, rows)):
            return block.run(block.original, stream, start)

    def _record(self, block: Pass, stream: Tensor, start: int) -> Tensor:
        rows, length = stream.shape[:2]
        on_product, on_add = (
            (ignore, ignore) if self.tape is None else (self.tape.products(start, rows), self.tape.adds(start, rows))
        )
        tokens = block.tokens[start : start + rows]  # before the recorder looks on: it is no part of the block
        recorder = Recorder(block.original, stream, block.runner.call(block.index, tokens).leaves)
        with recorder, recorder.watch(_parameters(block), on_product, on_add):
            output = block.runner.run(block.index, block.original, stream, tokens)
        self.programs[rows, length] = recorder.program(output) if block.runner.graph.is_alike else None
        if self.tape is not None and recorder.repeated & self.tape.leaders.keys():
            self.tape = None  # it holds one input of a weight: the original is run anew for every stage instead
        return output

    def passage(self, block: Pass, job: BlockJob, stream: StreamFile, ranges: list[tuple[int, int]]) -> Passage | None:
        """The rows of the quantized stream before the block; None where they cannot stop inside it."""
        programs = {shape: program for shape, program in self.programs.items() if program is not None}
        slot = slot_bytes(programs, job, len(ranges))
        if len(programs) < len(self.programs) or slot is None:
            return None
        return Passage(programs, block.quantized, stream, ranges, slot)


def _parameters(block: Pass) -> Mapping[str, Tensor]:
    name = block.runner.graph.blocks[block.index].name
    return {f"{name}.{key}": parameter for key, parameter in block.original.named_parameters()}
