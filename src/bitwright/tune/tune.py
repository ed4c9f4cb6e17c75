"""Artifact in, better artifact out: all codes and scales learned together against the original's predictions.

A solver sees one block. What its error does to the predictions depends on all blocks behind it, and only a gradient
through all of them knows. So after the solver codes near the edge of their cells and scales move down the gradient of
the Kullback-Leibler divergence of the next-token distributions, original against artifact. The rows that were held out
decide: where the divergence on them is no smaller in the end, the artifact stays as it was.

The original runs once; what leaves its last block is a file. Every tenth of the way the state is stored, in two files
that take turns, so that a kill costs no more. The new artifact is a folder of its own.

Source: the end-to-end step of EfficientQAT (Chen 2024) and PV-Tuning (Malinovskii 2024). Differs: codes and scales
move at once, straight through the rounding, from where the solver left them, towards the original model and not a text.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from bitwright.engine.folder import TUNING, claim, explained
from bitwright.evaluate.compare import check_source
from bitwright.evaluate.side import Side
from bitwright.evaluate.windows import Windows
from bitwright.execute import TorchRunner
from bitwright.graph import Graph, trace
from bitwright.numerics.plain import to_plain
from bitwright.numerics.short import has_short_units
from bitwright.solvers import RoundedWeight
from bitwright.solvers.moving import Moving, towards
from bitwright.store.artifact import Artifact, ArtifactError, open_artifact
from bitwright.store.batches import Batches
from bitwright.store.files import text_digest
from bitwright.store.lock import only_run
from bitwright.store.pieces import read_piece, write_piece
from bitwright.store.source import Source
from bitwright.tune.learner import Learner, Tuning
from bitwright.tune.student import Student
from bitwright.tune.write import write_tuned
from bitwright.version import __version__

TOKENS = 4096  # of the original at a time
STATES = 10  # are stored on the way


class TuneError(ValueError):
    """The artifact cannot be tuned; says why and what to do."""


@final
@dataclass(frozen=True, slots=True)
class Step:
    """How far it is: `done` of `steps` steps, and the mean divergence at the last one in nats per token."""

    done: int
    steps: int
    divergence: float


def ignore(step: Step) -> None:
    """The callback that does nothing."""


def tune(
    artifact: Artifact,
    source: Source,
    batches: Batches,
    out: Path,
    tuning: Tuning = Tuning(),
    on_step: Callable[[Step], None] = ignore,
) -> Artifact:
    """The tuned artifact, in the folder `out`; the same call after a kill goes on, a finished one is opened again.

    `batches`: calibration rows (`read_batches`); those that are held out decide whether the outcome is kept. Raises
    TuneError, and EvaluateError for an artifact that was made from another source.
    """
    check_source(artifact, source)
    _check(artifact, batches, out)
    key = text_digest([__version__, to_plain(artifact.manifest["digests"]), batches.digest, to_plain(tuning)])
    with only_run(out), explained(out):
        claim(out, key)
        if not _is_finished(out):
            (out / "manifest.json").unlink(missing_ok=True)
            _Run(artifact, source, batches, out / TUNING, tuning, key).run(out, on_step)
        shutil.rmtree(out / TUNING, ignore_errors=True)
    return open_artifact(out)


def _is_finished(out: Path) -> bool:
    """Whether a whole artifact is there; one that was damaged since is made anew."""
    try:
        open_artifact(out)
    except ArtifactError:
        return False
    return True


def _check(artifact: Artifact, batches: Batches, out: Path) -> None:
    if artifact.path.resolve() == out.resolve():
        raise TuneError(f"{out} is the artifact itself: give another output folder")
    if batches.held_out == 0:
        raise TuneError("one row of calibration text is too few: some must be held out to judge; give a longer text")
    if artifact.manifest.get("tuned") is not None:
        raise TuneError(f"{artifact.path} is tuned already; tune the artifact that it was made from, with more epochs")
    if not any(entry.block is not None for entry in artifact.entries):
        raise TuneError(f"{artifact.path} has no quantized weight inside a block, so nothing can be tuned")


@final
class _Run:
    """One run: its weights that move, the student, and the state on disk."""

    def __init__(
        self, artifact: Artifact, source: Source, batches: Batches, work: Path, tuning: Tuning, key: str
    ) -> None:
        self.artifact, self.source, self.batches, self.work, self.key = artifact, source, batches, work, key
        self.tuning, self.graph = tuning, trace(source.skeleton())
        self.rows = max(1, tuning.tokens // batches.rows.shape[1])
        self.taught = len(batches.rows) - batches.held_out
        self.per_epoch = math.ceil(self.taught / self.rows)
        self.steps = tuning.epochs * self.per_epoch
        self.every = math.ceil(self.steps / STATES)

    def run(self, out: Path, on_step: Callable[[Step], None]) -> None:
        """Learn, judge, write."""
        wanted = original_streams(self.source, self.graph, self.batches, self.work)
        weights = dict(moving_weights(self.artifact, self.source))
        student = Student(self.artifact, self.source, self.graph, weights, has_short_units())
        learner = Learner(weights, self.tuning, self.steps)
        report = self._restored(learner) or {"before": self._judge(student, wanted), "divergences": []}
        while learner.done < self.steps:
            report["divergences"].append(self._step(student, learner, wanted))
            if learner.done % self.every == 0 or learner.done == self.steps:
                write_piece(*self._place(learner.done), learner.state(), report)
            on_step(Step(learner.done, self.steps, report["divergences"][-1]))
        after = self._judge(student, wanted)
        kept = after < report["before"]
        epochs = torch.tensor(report["divergences"], dtype=torch.float64).reshape(-1, self.per_epoch).mean(1).tolist()
        notes = {"kl_before": report["before"], "kl_after": after, "kl_epochs": epochs, "kept": kept}
        found = {name: weight.stored() for name, weight in weights.items()} if kept else {}
        write_tuned(self.artifact, found, notes | {"settings": to_plain(self.tuning)}, out)

    def _restored(self, learner: Learner) -> dict[str, Any] | None:
        """What was reported when the last state that is intact was stored; the learner goes on from there."""
        for done in range(self.steps, 0, -1):
            if done % self.every == 0 or done == self.steps:
                piece = read_piece(*self._place(done))
                if piece is not None:
                    learner.restore(piece.arrays(), done)
                    report: dict[str, Any] = piece.report
                    return report
        return None

    def _place(self, done: int) -> tuple[Path, str]:
        """File and key of the state after so many steps."""
        number = math.ceil(done / self.every)
        return self.work / f"state{number % 2}.safetensors", text_digest([self.key, done])

    def _step(self, student: Student, learner: Learner, wanted: Side) -> float:
        """The mean divergence on the rows of the next step, as it was when the step was taken."""
        epoch, place = divmod(learner.done, self.per_epoch)
        order = torch.randperm(self.taught, generator=torch.Generator().manual_seed(epoch))
        rows = order.split(self.rows)[place]
        divergence = student.learn(self.batches.rows[rows], _streams(wanted, rows))
        if not math.isfinite(divergence):
            raise TuneError(
                f"the divergence of the artifact from the original became {divergence} after {learner.done} steps; "
                "`bitwright evaluate` says whether the artifact itself is sound"
            )
        learner.step()
        return divergence

    def _judge(self, student: Student, wanted: Side) -> float:
        rows = torch.arange(self.taught, len(self.batches.rows)).split(self.rows)
        return student.judge([self.batches.rows[part] for part in rows], [_streams(wanted, part) for part in rows])


def original_streams(source: Source, graph: Graph, rows: Batches, work: Path) -> Side:
    """The original model over all rows up to the end of its last block."""
    windows = Windows(rows.rows, rows.rows.shape[1], rows.digest)
    side = Side.open(source, TorchRunner(source, graph, torch.float32), windows, work / "original")
    parts = windows.batches(TOKENS)
    side.embed(parts)
    for index in range(len(graph.blocks)):
        side.advance(index, parts)
    return side


def _streams(side: Side, rows: Tensor) -> Tensor:
    return torch.cat([side.stream.read(row, row + 1) for row in rows.tolist()])


def moving_weights(artifact: Artifact, source: Source) -> Iterator[tuple[str, Moving]]:
    """Every quantized weight of the blocks whose stored form can follow, by name."""
    for block in sorted({entry.block for entry in artifact.entries if entry.block is not None}):
        qtensors = artifact.qtensors(block)
        entries = [entry for entry in artifact.entries if entry.block == block]
        fixed = {entry.parameter for entry in entries if qtensors[entry.name].residual is not None}
        stored = source.read({entry.parameter for entry in entries} - fixed)
        for entry in entries:
            if entry.parameter not in fixed:
                parameter = stored[entry.parameter] if entry.index is None else stored[entry.parameter][entry.index]
                matrix = (parameter.mT if entry.transposed else parameter).float()
                begin = towards(RoundedWeight(matrix, qtensors[entry.name]))
                yield entry.name, Moving(RoundedWeight(begin, qtensors[entry.name]), begin)
