"""Learned rounding in a run: segment after segment of the network, against what the float network makes there.

It begins where the walk ended. A segment reads what the quantized network hands it, all before it being final, and its
codes, its biases and (with a solver that does so) the steps of its activations are learned until it gives back what the
float segment gives on the float inputs. Segments are residual blocks where there are any. A segment is kept only where
that helps on samples that taught nothing, the whole only where the outputs of the network are better for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from bitwright.engine.checkpoint_forms import learned_form
from bitwright.engine.judge import BATCH, Judge, teaching, through
from bitwright.engine.live_segment import (
    LiveSegment,
    activation_of,
    in_codes,
    joined,
    offset_of,
    open_segment,
    range_of,
)
from bitwright.engine.patches import has_patches
from bitwright.engine.progress import OnStep, Step
from bitwright.engine.walk import Task, Walked, changes_of, shaped_offset, takes_offset
from bitwright.execute.interpret import InterpretError, UnsupportedOperator, as_it_is, can_interpret
from bitwright.execute.node_walk import Change, NodeWalk
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.network import Node
from bitwright.graph.segments import Segment, segments
from bitwright.recipe.targets import APART
from bitwright.solvers import BlockSolver, Choice, Piece, Progress, Reconstruction, RoundedWeight
from bitwright.solvers import Samples as Taught
from bitwright.store.checkpoints import Checkpoints
from bitwright.store.quantized import StoredPoint, StoredWeight
from bitwright.store.sample_set import Samples

LEARNED = 1024  # samples at most
HELD = 1 << 30  # bytes of values at the ends of one segment; fewer samples where they would need more
PERCENT = 100  # of a segment: what progress is told in, because a segment may take minutes
HELD_OUT = 4  # every fourth sample decides what is kept


@final
@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """Weights, offsets and points after learning, and what became of every segment, as plain data."""

    walked: Walked
    points: Mapping[str, StoredPoint]
    notes: Mapping[str, Any]


def learn_rounding(
    task: Task, walked: Walked, samples: Samples, judge: Judge, checkpoints: Checkpoints, on_step: OnStep
) -> Learned:
    """What the recipe's `learn` makes of the outcome of the walk; that outcome where it is no better.

    Memory: what at most 1024 samples hold at the ends of the widest segment, at most 1 GiB.
    """
    solver = task.recipe.learn
    assert solver is not None
    learning = _Learning(task, walked, solver, checkpoints)
    try:
        learning.run(samples, on_step)
    except _CannotLearnError as error:
        return Learned(walked, task.points, {"kept": False, "reason": str(error)})
    runner, network = OnnxRunner(task.source), task.source.network()
    before = judge.noise(runner, task.points, changes_of(network, walked))
    after = judge.noise(runner, learning.points, changes_of(network, learning.walked()))
    notes = {"output_noise_before": before, "output_noise": after, "segments": learning.notes}
    if not after < before:
        reason = "the outputs on held-out samples are no better for it"
        return Learned(walked, task.points, {"kept": False, "reason": reason} | notes)
    return Learned(learning.walked(), learning.points, {"kept": True} | notes)


class _CannotLearnError(Exception):
    """Nothing can be learned in this network or with these samples; says why."""


@final
class _Streams:
    """The live values of all samples, batch by batch, of the float and of the quantized network; what it makes next."""

    def __init__(self, batches: Sequence[Mapping[str, Tensor]]) -> None:
        self.original, self.quantized = [dict(batch) for batch in batches], [dict(batch) for batch in batches]
        self.wanted: list[dict[str, Tensor]] = []

    def split(self, part: Segment) -> tuple[Taught, Taught]:
        """What a segment reads and is to make: of the samples that teach, and of those that judge."""
        wanted = joined(_together(self.wanted, part.makes).values())
        taught = Taught(_together(self.original, part.reads), _together(self.quantized, part.reads), wanted)
        rows = torch.arange(len(taught))
        apart = rows % HELD_OUT == HELD_OUT - 1
        return taught.take(rows[~apart]), taught.take(rows[apart])

    def advance(self, later: Collection[str]) -> None:
        """Go on to the end of the segment; forget what nothing reads any more."""
        self.original = [live | new for live, new in zip(self.original, self.wanted, strict=True)]
        self.original = [{n: v for n, v in live.items() if n in later} for live in self.original]
        self.quantized = [{n: v for n, v in live.items() if n in later} for live in self.quantized]


class _Learning:
    """All samples at the end of the same segment, in the float and in the quantized network."""

    def __init__(self, task: Task, walked: Walked, solver: BlockSolver, checkpoints: Checkpoints) -> None:
        self.task, self.solver, self.network = task, solver, task.source.network()
        self.checkpoints = checkpoints
        self.weights, self.rounded = dict(walked.weights), dict(walked.rounded)
        self.offsets, self.points = dict(walked.offsets), dict(task.points)
        self.notes: list[dict[str, Any]] = []
        self._runner = OnnxRunner(task.source, threads=torch.get_num_threads())
        self._apart = {node.name for node in self.network.nodes if task.plan.placement.integer.get(node.name) in APART}
        weighted = {node for weight in walked.weights.values() for node in weight.nodes} - self._apart
        self._parts = segments(self.network, weighted, *([1] if solver.piece is Piece.LAYER else []))
        self._moved: set[str] = set()  # values whose point was open to learning once

    def walked(self) -> Walked:
        """The outcome so far, as that of a walk."""
        return Walked(self.weights, self.rounded, self.offsets)

    def run(self, samples: Samples, on_step: OnStep) -> None:
        """Learn segment after segment."""
        streams = _Streams(self._batches(samples))
        place, total = 0, len(self._parts)

        def tell(number: int, percent: int) -> None:
            on_step(Step("learn", number * PERCENT + percent, total * PERCENT))

        for number, part in enumerate(self._parts):
            streams.wanted = [
                self._runner.run({n: live[n] for n in part.reads}, part.makes) for live in streams.original
            ]
            live_segment = self._learn(part, streams, number, partial(tell, number))
            tell(number, PERCENT)
            if number + 1 < total:
                self._advance(part, live_segment, streams, place)
            streams.advance({name for one in self._parts[number + 1 :] for name in one.reads})
            place += len(part.nodes)

    def _batches(self, samples: Samples) -> list[Mapping[str, Tensor]]:
        """As many samples as fit; all in batches of the same size and shapes but the last."""
        taught = teaching(samples)
        if not taught.stacking.shares:
            raise _CannotLearnError("samples of this network cannot share a batch")
        first = taught.first(BATCH)
        ends = list(dict.fromkeys(name for part in self._parts for name in (*part.reads, *part.makes)))
        sizes = {name: value.nbytes for name, value in self._runner.run(first, ends).items()}
        widest = max(2 * sum(sizes[name] for name in (*part.reads, *part.makes)) for part in self._parts)
        size = len(next(iter(first.values())))
        count = max(size, min(LEARNED, HELD * size // max(1, widest)))
        batches: list[Mapping[str, Tensor]] = list(taught.dealt(count, BATCH).batches(BATCH))
        shapes = {tuple((name, value.shape[1:]) for name, value in batch.items()) for batch in batches}
        if len(shapes) > 1:
            raise _CannotLearnError("the samples have different shapes")
        return batches

    def _learn(self, part: Segment, streams: _Streams, number: int, tell: Callable[[int], None]) -> LiveSegment | None:
        """Learn one segment; what runs it as it is then, or None where only ONNX Runtime can run it."""
        live_segment = self._open(part)
        if live_segment is None or not _is_sound(live_segment, streams):
            self._note(part, "its operators cannot be run on any number of samples: codes as they were")
            return None
        learnable = _names(part) - self._apart
        own = {name: weight for name, weight in self.weights.items() if set(weight.nodes) <= learnable}
        moving = self._moving(live_segment)
        fixed = {in_codes(n): activation_of(self.points[n]) for n in live_segment.points if n not in moving}
        current = {n: w.dequantize() for n, w in self.weights.items() if n in live_segment.constants and n not in own}
        live_segment = live_segment.with_constants(current).with_fixed(fixed)
        if not own:
            return live_segment
        taught, held_out = streams.split(part)
        problem = Reconstruction(
            live_segment.forward,
            {n: RoundedWeight(live_segment.constants[n], weight.qtensor, weight.axis) for n, weight in own.items()},
            taught,
            held_out,
            live_segment.offsets,
            {in_codes(name): activation_of(self.points[name]) for name in moving},
            seed=number,
            progress=lambda seen: tell(_percent(seen)),
        )
        form = learned_form(
            {name: weight.qtensor for name, weight in own.items()},
            {in_codes(name): self.points[name].spec for name in moving},
        )
        found = self.checkpoints.once(f"segment {number}", lambda: self.solver.reconstruct(problem), form)
        self._take(part, found.choice)
        self._note(part, *found.notes, before=found.before, after=found.after, steps=found.steps)
        learned = {name: self.weights[name].dequantize() for name in own}
        return live_segment.with_constants({**learned, **found.choice.biases}).with_fixed(found.choice.points)

    def _open(self, part: Segment) -> LiveSegment | None:
        """The segment with a copy for every point and a sum for every offset; None where an operator is not known."""
        if not all(can_interpret(node) for node in part.nodes):
            return None
        names = {name for node in part.nodes for name in node.inputs if name in self.network.constants}
        offsets = {}
        for weight in self.weights.values():
            for node in part.nodes:
                if node.name in weight.nodes and self._takes_offset(node, weight):
                    offset = self.offsets.get(node.name, torch.zeros(weight.qtensor.shape[0]))
                    offsets[node.name] = shaped_offset(self.network, node, offset)
        return open_segment(part, self.task.source.read(sorted(names)), self.points, offsets)

    def _takes_offset(self, node: Node, weight: StoredWeight) -> bool:
        """Whether something is or may be added to what a node makes."""
        may = self.task.recipe.corrects_bias and has_patches(self.network, node)
        return node.name in self.offsets or (may and takes_offset(self.network, node, weight.nodes))

    def _moving(self, live_segment: LiveSegment) -> tuple[str, ...]:
        """Points that may be learned here: of a scale of their own, and not read in codes by a segment before."""
        shared = Counter(point.group for point in self.points.values())
        found = [n for n in live_segment.points if n not in self._moved and shared[self.points[n].group] == 1]
        self._moved.update(live_segment.points)
        return tuple(found)

    def _take(self, part: Segment, choice: Choice) -> None:
        for name, qtensor in choice.weights.items():
            self.weights[name] = replace(self.weights[name], qtensor=qtensor)
            found = self.rounded[name]
            self.rounded[name] = replace(found, qtensor=qtensor, notes=(*found.notes, "learned after that"))
        for node in part.nodes:
            if offset_of(node.name) in choice.biases:
                self.offsets[node.name] = choice.biases[offset_of(node.name)].reshape(-1)
        for name in [name for name in self.points if in_codes(name) in choice.points]:
            params = choice.points[in_codes(name)].params
            low, high = range_of(self.points[name].spec, params)
            self.points[name] = replace(self.points[name], params=params, low=low, high=high)

    def _note(self, part: Segment, *notes: str, **figures: float) -> None:
        nodes = [part.nodes[0].name, part.nodes[-1].name]
        self.notes.append({"nodes": nodes, **figures, "notes": list(notes)})

    def _advance(self, part: Segment, live_segment: LiveSegment | None, streams: _Streams, place: int) -> None:
        """Bring the quantized stream behind a segment, through codes as they are now."""
        if live_segment is not None:
            with torch.no_grad():
                streams.quantized = [live | live_segment.run({}, live, as_it_is) for live in streams.quantized]
            return
        points = {name: (through(point), point.readers) for name, point in self.points.items()}
        walk = NodeWalk(self._runner, streams.quantized, points, place)
        changes = changes_of(self.network, self.walked())
        for node in part.nodes:
            walk.advance(node, changes.get(node.name, Change()))
        streams.quantized = walk.live


def _percent(seen: Progress) -> int:
    """How much of a segment is done; all of it only once it is judged."""
    return PERCENT * (seen.step - 1) // seen.steps


def _names(part: Segment) -> set[str]:
    return {node.name for node in part.nodes}


def _together(batches: Sequence[Mapping[str, Tensor]], names: Sequence[str]) -> dict[str, Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in names}


def _is_sound(live_segment: LiveSegment, streams: _Streams) -> bool:
    """Whether the torch functions give what the float network gives, for half a batch as for a whole one.

    So a segment in which samples are not along the first axis everywhere, or a shape is fixed, is not learned.
    """
    inputs, wanted = streams.original[0], streams.wanted[0]
    size = max((len(value) for value in wanted.values() if value.dim()), default=0)
    some = {name: inputs[name] for name in live_segment.reads}
    if size < 2 or any(not value.dim() or len(value) != size for value in (*some.values(), *wanted.values())):
        return False
    try:
        return all(_agree(live_segment, some, wanted, count) for count in (size, size // 2))
    except (InterpretError, UnsupportedOperator):
        return False


def _agree(live_segment: LiveSegment, inputs: Mapping[str, Tensor], wanted: Mapping[str, Tensor], count: int) -> bool:
    """Whether the first samples of a batch alone give what they give among all."""
    with torch.no_grad():
        found = live_segment.without_codes().run({}, {name: value[:count] for name, value in inputs.items()}, as_it_is)
    return all(
        torch.allclose(value, wanted[name][:count], 1e-3, 1e-3 * _size(wanted[name])) for name, value in found.items()
    )


def _size(value: Tensor) -> float:
    return float(value.abs().max()) if value.is_floating_point() else 0.0
