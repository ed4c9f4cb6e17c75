"""Runs a quantized file and its float original on the same batches, in any engine: first for outputs, then for time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

from torch import Tensor

from bitwright.evaluate.agreement import Agreement, Compared, named
from bitwright.evaluate.latency import Latency, Timing, batch_text, latency, time_pairs
from bitwright.execute.onnx_runner import RunError

Feeds = Mapping[str, Tensor]


@runtime_checkable
class Session(Protocol):
    """A file that an engine has opened. An axis of unknown length is a name or None."""

    inputs: Mapping[str, tuple[int | str | None, ...]]
    outputs: tuple[str, ...]

    def run(self, feeds: Feeds) -> dict[str, Tensor]:
        """The outputs of one batch."""
        ...

    def raw(self, feeds: Feeds) -> dict[str, Any]:
        """A batch in the engine's own form."""
        ...

    def run_raw(self, arrays: Mapping[str, Any]) -> list[Any]:
        """The outputs in the engine's own form."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Job:
    """What is to be verified; see `verify`."""

    delivered: Path
    original: Path
    feeds: tuple[Feeds, ...]
    expected: tuple[Feeds, ...] | None
    threads: int
    timing: Timing


def agreements(job: Job, session: Session, original: Session) -> tuple[Agreement, ...]:
    """How far each output of the quantized file is from the simulation's and from the original's, over all batches."""
    found = {name: Compared(name) for name in session.outputs}
    for batch, feeds in enumerate(job.feeds):
        made, floats = session.run(feeds), original.run(feeds)
        for name, compared in found.items():
            simulated = None if job.expected is None else named(job.expected[batch], name, "the simulation")
            compared.add(batch, made[name], named(floats, name, "the original"), simulated)
    return tuple(compared.agreement() for compared in found.values())


def latencies(
    job: Job, session: Session, originals: Mapping[str, Session]
) -> tuple[tuple[Latency, ...], tuple[str, ...]]:
    """The speedup over each original on the first batch and on its first sample; and why the latter is missing."""
    batches = [job.feeds[0]]
    skipped: tuple[str, ...] = ()
    single = first_sample(job.feeds[0], session.inputs)
    if single is not None:
        try:
            for one in (session, *originals.values()):
                one.run(single)
            batches.append(single)
        except RunError as error:
            skipped = (f"not timed on one sample, though its first axis is of any length: {error}",)
    timed = []
    for feeds in batches:
        text = batch_text([tuple(feeds[name].shape) for name in session.inputs])
        for against, original in originals.items():
            ours = partial(session.run_raw, session.raw(feeds))
            theirs = partial(original.run_raw, original.raw(feeds))
            timed.append(latency(time_pairs(ours, theirs, job.timing), against, text))
    return tuple(timed), skipped


def first_sample(feeds: Feeds, inputs: Mapping[str, tuple[int | str | None, ...]]) -> Feeds | None:
    """The first sample of a batch alone; None where the first axis is fixed, or there is one sample only.

    The batch axis is the first of the first input. Others of the same name are cut too, wherever they are; where the
    file gives it no name, the first axes without a name.
    """
    first = next((axes for axes in inputs.values() if axes), (0,))
    batch = first[0]
    if isinstance(batch, int):
        return None
    cut = {
        name: _cut(feeds[name], [i for i, axis in enumerate(axes) if axis == batch and (batch is not None or i == 0)])
        for name, axes in inputs.items()
    }
    return None if all(cut[name].shape == feeds[name].shape for name in cut) else cut


def _cut(tensor: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        tensor = tensor.narrow(axis, 0, 1)
    return tensor
