"""Looks at one stage of a block in both streams at once and sums what its solvers need.

For every batch of rows the original block runs on the original stream and the half-quantized block on the quantized
stream, both only as far as the stage goes, or what they would show is at hand (`tape.py`, `passage.py`). What the
stage's linears read in the two is lined up token by token: the Gram matrix of the quantized input, its products with
the drift of the input, and, for linears that write the stream, with the drift of the stream. Tokens that a router sent
differ between the streams, so routed linears get a Gram alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from bitwright.calib import Cross, Gram
from bitwright.engine.passage import Passage
from bitwright.engine.tape import Tape
from bitwright.execute import StreamFile, TorchRunner, short_factors
from bitwright.graph import Enough, Watch, WeightView, run_watched
from bitwright.recipe.plan import Stage, Step

_GRAM_BYTES = 2 << 30  # sums held at a time; a stage with more inputs takes several passes


@dataclass(frozen=True, slots=True)
class Pair:
    """The same rows of the original's and of the quantized model's activations."""

    original: StreamFile
    quantized: StreamFile


@dataclass(slots=True)
class InputStats:
    """What was summed for one input of the stage; `stream` by weight name, for writers of the stream.

    `drift` is the input's, or, where the weights have few rows, that of their outputs, which are stacked: `through`.
    """

    gram: Gram
    drift: Cross | None
    through: bool = False
    stream: dict[str, Cross] = field(default_factory=dict)
    sample: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Pass:
    """One block in both forms, ready to run on the rows of `tokens`."""

    runner: TorchRunner
    index: int
    original: nn.Module
    quantized: nn.Module
    tokens: Int64[Tensor, "rows length"]
    tape: Tape | None = None
    passage: Passage | None = None

    def enter(self, stage: Stage) -> None:
        """All stages before this one are rounded now."""
        if self.passage is not None:
            self.passage.enter(stage)

    def output(self, stream: StreamFile, start: int, stop: int) -> Tensor:
        """The quantized block's output for these rows of its stream."""
        if self.passage is not None:
            return self.passage.output((start, stop))
        with short_factors():
            return self.run(self.quantized, stream.read(start, stop), start)

    def run(self, module: nn.Module, rows: Float[Tensor, "rows length ..."], start: int) -> Tensor:
        """What one of the two forms makes of these rows, the first of which is row `start`."""
        return self.runner.run(self.index, module, rows, self.tokens[start : start + len(rows)])


def by_input(stage: Stage) -> list[tuple[Step, ...]]:
    """The steps of a stage grouped by the input that they share, in the order they ran."""
    groups: dict[int, list[Step]] = {}
    for step in stage.steps:
        groups.setdefault(step.linear.source, []).append(step)
    return [tuple(group) for group in groups.values()]


def passes(groups: list[tuple[Step, ...]]) -> Iterable[list[tuple[Step, ...]]]:
    """The groups in portions whose sums fit in memory together. The sums do not depend on how they are portioned."""
    portion: list[tuple[Step, ...]] = []
    held = 0
    for group in groups:
        size = 8 * group[0].linear.view.shape[1] ** 2
        if portion and held + size > _GRAM_BYTES:
            yield portion
            portion, held = [], 0
        portion.append(group)
        held += size
    yield portion


def collect(
    block: Pass, groups: list[tuple[Step, ...]], streams: Pair, ranges: list[tuple[int, int]]
) -> list[InputStats]:
    """The sums of every group over these row ranges."""
    found = [_empty(group, block.runner.weights == torch.bfloat16) for group in groups]
    steps = {step.name: step for group in groups for step in group}
    for start, stop in ranges:
        before = _Seen(steps)
        after = _Seen(steps)
        if block.tape is not None:
            before.recall(block.tape, start, stop)
        else:
            before.run(block.original, block, streams.original.read(start, stop), start)
        if block.passage is not None:
            after.resume(block.passage, start, stop)
        else:
            after.run(block.quantized, block, streams.quantized.read(start, stop), start)
        for group, stats in zip(groups, found, strict=True):
            _add(group, stats, before, after, block)
    return found


def _empty(group: tuple[Step, ...], short: bool) -> InputStats:
    width = group[0].linear.view.shape[1]
    routed = any(step.linear.routed for step in group)
    rows = sum(step.linear.view.shape[0] for step in group)
    through = 2 * rows <= width  # then W C is cheaper to sum than C, and smaller
    drift = None if routed else Cross(rows if through else width, width, short)
    writers = [] if routed else [step for step in group if step.linear.writes_stream]
    stream = {step.name: Cross(step.linear.view.shape[0], width, short) for step in writers}
    return InputStats(Gram(width, short), drift, through, stream)


def _add(group: tuple[Step, ...], stats: InputStats, before: _Seen, after: _Seen, block: Pass) -> None:
    first = group[0].name
    for i, now in enumerate(after.inputs.get(first, [])):
        if stats.sample is None and len(now):
            stats.sample = now.float().flatten()[:: max(1, now.numel() // 65536)]
        stats.gram.add(now)
        then = before.inputs.get(first, [])
        if stats.drift is not None and i < len(then) and then[i].shape == now.shape:
            drift = then[i].float() - now.float()
            stats.drift.add(_outputs(group, drift, block) if stats.through else drift, now)
    for name, sums in stats.stream.items():
        if name in before.added and name in after.added:
            now = after.inputs[name][-1]
            drift = before.added[name].reshape(len(now), -1).float() - after.added[name].reshape(len(now), -1).float()
            sums.add(drift, now)


def _outputs(group: tuple[Step, ...], drift: Tensor, block: Pass) -> Tensor:
    """What the group's original weights make of the drift of their input, stacked [tokens, sum of out]."""
    prefix = block.runner.graph.blocks[block.index].name + "."
    found = []
    for step in group:
        view = step.linear.view
        weight = view.read(block.original.get_parameter(view.parameter.removeprefix(prefix)))
        with short_factors():
            found.append((drift.to(weight.dtype) @ weight.mT).float())
    return torch.cat(found, 1)


class _Seen:
    """What one run showed: inputs by weight name, and what each writer's output was added to."""

    def __init__(self, steps: Mapping[str, Step]) -> None:
        self.steps = steps
        self.inputs: dict[str, list[Tensor]] = {}
        self.added: dict[str, Tensor] = {}
        self._awaited = {name for name, step in steps.items() if not step.linear.routed}
        self._awaited_adds = {name for name in self._awaited if steps[name].linear.writes_stream}
        self._stops = len(self._awaited) == len(steps)

    def run(self, module: nn.Module, block: Pass, rows: Tensor, start: int) -> None:
        """Run the block on these rows, the first of which is row `start`, until everything has been seen."""
        name = block.runner.graph.blocks[block.index].name
        parameters = {f"{name}.{key}": p for key, p in module.named_parameters()}
        watch = Watch(parameters, self._product, self._add)
        with short_factors():
            run_watched(lambda: block.run(module, rows, start), watch)

    def recall(self, tape: Tape, start: int, stop: int) -> None:
        """Take the same from the tape of an earlier run; routed weights are not on it."""
        for name in self.steps:
            read = tape.input(name, start, stop)
            added = tape.added(name, start, stop)
            if read is not None:
                self.inputs[name] = [read]
            if added is not None:
                self.added[name] = added

    def resume(self, passage: Passage, start: int, stop: int) -> None:
        """Take the same from rows that have been put aside before the stage."""
        reads, self.added = passage.reads(self.steps, (start, stop))
        self.inputs = {name: [read] for name, read in reads.items()}

    def _product(self, view: WeightView, read: Tensor) -> None:
        if view.name in self.steps:
            self.inputs.setdefault(view.name, []).append(read)
            self._awaited.discard(view.name)
            self._check()

    def _add(self, view: WeightView, other: Tensor) -> None:
        if view.name in self._awaited_adds:
            self.added[view.name] = other
            self._awaited_adds.discard(view.name)
            self._check()

    def _check(self) -> None:
        if self._stops and not self._awaited and not self._awaited_adds:
            raise Enough
