"""Carries a plan out, block by block, so that a kill at any moment costs one block.

Behind every block both streams are on disk, with a note of their digests, before the block itself is stored; the
streams before it are deleted after that. A block's key is a digest of all that its result depends on: the source, the
calibration rows, the version, and the plan up to this block. Running the same command again finds the blocks whose key
and digest are right and goes on behind them. A folder that belongs to another plan is refused.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bitwright.calib import full_products
from bitwright.engine.block import BlockResult, Flow, Rows, quantize_block, replay
from bitwright.engine.collect import Pass
from bitwright.engine.folder import claim, explained
from bitwright.engine.outside import store_outside
from bitwright.engine.streams import Boundary
from bitwright.execute import TorchRunner
from bitwright.numerics.plain import to_plain
from bitwright.recipe.plan import BlockJob, Plan
from bitwright.store.artifact import Entry, block_file, read_block, read_qtensors, write_block
from bitwright.store.batches import Batches
from bitwright.store.files import text_digest
from bitwright.store.source import Source
from bitwright.version import __version__


@dataclass(frozen=True, slots=True)
class BlockDone:
    """One finished block: its report, how long it took (0 if it was found on disk), and how many there are."""

    report: Any
    seconds: float
    index: int
    count: int


@dataclass(frozen=True, slots=True)
class Run:
    """A plan on a source with calibration rows, computed in `dtype`, stored in `folder`."""

    plan: Plan
    source: Source
    batches: Batches | None
    folder: Path
    dtype: torch.dtype

    def keys(self) -> list[str]:
        """The key of every block."""
        search = to_plain(self.plan.search)
        last = text_digest(
            {
                "version": __version__,
                "source": self.source.digest(),
                "rows": self.batches.digest if self.batches else None,
                "dtype": str(self.dtype),
                "search": search,
            }
        )
        keys = []
        for job in self.plan.blocks:
            last = text_digest([last, [[s.name, to_plain(s.spec), to_plain(s.solver)] for s in job.steps]])
            keys.append(last)
        return keys

    def blocks(self) -> Iterator[BlockDone]:
        """Finish the blocks one after the other; those that are stored and intact are not computed again."""
        keys = self.keys()
        with explained(self.folder):
            claim(self.folder, text_digest([keys, [table_text(table) for table in self.plan.tables]]))
            stored = [read_block(self.folder, i, key) for i, key in enumerate(keys)]
            first = next((i for i, report in enumerate(stored) if report is None), len(keys))
            for i in range(first):
                yield BlockDone(stored[i], 0.0, i, len(keys))
            if first < len(keys):
                yield from self._from(first, keys, stored)
            shutil.rmtree(self.folder / "streams", ignore_errors=True)
            store_outside(self.plan, self.source, self.folder)

    def _from(self, first: int, keys: list[str], stored: list[Any | None]) -> Iterator[BlockDone]:
        """Compute what is missing; the streams are only run through stored blocks behind which something is missing."""
        shorter = self.dtype == torch.float32 and self.source.dtype == torch.bfloat16
        weights = self.source.dtype if shorter else self.dtype
        runner = TorchRunner(self.source, self.plan.graph, self.dtype, weights)
        with full_products():
            boundary = self._boundary(first, keys, runner) if self.batches is not None else None
        last = max(i for i, report in enumerate(stored) if report is None)
        for job in self.plan.blocks[first:]:
            started = time.monotonic()
            if stored[job.index] is not None:
                if boundary is not None and job.index < last:
                    boundary = self._replay(job, runner, boundary)
                yield BlockDone(stored[job.index], 0.0, job.index, len(keys))
                continue
            with full_products():
                result, behind = self._block(job, keys, runner, boundary)
            report = _store(self.folder, keys[job.index], job, result)
            if boundary is not None:
                boundary.hand_down()
            boundary = behind
            yield BlockDone(report, time.monotonic() - started, job.index, len(keys))

    def _block(
        self, job: BlockJob, keys: list[str], runner: TorchRunner, boundary: Boundary | None
    ) -> tuple[BlockResult, Boundary | None]:
        weights = self.source.read(_stored(job, self.source))
        if boundary is None:
            return quantize_block(job, self.plan.search, runner, weights, None), None
        behind = boundary.at(job.index + 1)
        result = quantize_block(job, self.plan.search, runner, weights, Flow(self._rows(), boundary.pair, behind.pair))
        behind.seal(keys[job.index])
        return result, behind

    def _rows(self) -> Rows:
        assert self.batches is not None
        return Rows(self.batches.rows, self.batches.held_out)

    def _boundary(self, first: int, keys: list[str], runner: TorchRunner) -> Boundary:
        """The streams before block `first`: as found on disk, or else run anew through the stored blocks."""
        assert self.batches is not None
        rows = self._rows()
        runner.load_outside()
        for begin, stop in rows.all:
            runner.note_calls(stop - begin, rows.length)
        sample = runner.first_stream(self.batches.rows[:1])
        start = Boundary(self.folder / "streams", 0, (rows.count, rows.length, *sample.shape[2:]), sample.dtype)
        here = start.at(first)
        if first > 0 and here.is_sealed(keys[first - 1]):
            runner.drop_outside()
            here.delete_others()
            return here
        start.delete_all()
        start.pair.original.create()
        for begin, stop in rows.all:
            start.pair.original.write(begin, runner.first_stream(self.batches.rows[begin:stop]))
        runner.drop_outside()
        for job in self.plan.blocks[:first]:
            start = self._replay(job, runner, start)
        return start

    def _replay(self, job: BlockJob, runner: TorchRunner, before: Boundary) -> Boundary:
        """Run both streams through a block that is stored already."""
        weights = self.source.read(_stored(job, self.source))
        rounded = dict(weights)
        qtensors = read_qtensors(self.folder, job.index, _entries(job))
        for step in job.steps:
            view = step.linear.view
            if rounded[view.parameter] is weights[view.parameter]:
                # in the type that is computed in, as when the block was made: the checkpoint's own may be coarser
                rounded[view.parameter] = weights[view.parameter].to(self.dtype, copy=True)
            view.read(rounded[view.parameter]).copy_(qtensors[step.name].dequantize())
        behind = before.at(job.index + 1)
        flow = Flow(self._rows(), before.pair, behind.pair)
        original, quantized = runner.block(job.index, weights), runner.block(job.index, rounded)
        replay(Pass(runner, job.index, original, quantized, flow.rows.tokens), job, flow)
        before.hand_down()
        return behind


def table_text(table: Any) -> Any:
    """What identifies a table's treatment."""
    return [table.view.name, to_plain(table.spec)]


def _stored(job: BlockJob, source: Source) -> list[str]:
    """The block's parameters that the source stores, and persistent buffers of the block."""
    prefix = job.block.name + "."
    return [name for name in source.parameters() if name.startswith(prefix)]


def _entries(job: BlockJob) -> list[Entry]:
    found = []
    for step in job.steps:
        view = step.linear.view
        found.append(Entry(step.name, view.parameter, view.index, view.transposed, view.shape, step.spec, job.index))
    return found


def _store(folder: Path, key: str, job: BlockJob, result: BlockResult) -> Any:
    write_block(folder, job.index, key, (result.qtensors, result.kept), result.report)
    assert block_file(folder, job.index).is_file()
    return result.report
