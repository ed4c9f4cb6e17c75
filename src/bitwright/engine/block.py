"""Quantizes one block: the same on this machine, in another process, or after a restart.

The original block runs once over all rows to make the next original stream, which is also what held-out errors are
measured against. Then stage by stage the second copy of the block takes quantized weights, and at last it runs over all
rows to make the next quantized stream. Both streams are on disk before the block is stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from bitwright.engine.choose import HeldOut, Writer
from bitwright.engine.collect import Pair, Pass
from bitwright.engine.notes import Notes
from bitwright.engine.sensitivity import distribution, grid, remedies
from bitwright.engine.stage import Outcome, StageRun
from bitwright.engine.tape import Held, Tape, plan_tape
from bitwright.execute import StreamFile, TorchRunner, batches
from bitwright.numerics import QTensor
from bitwright.numerics.plain import to_plain
from bitwright.recipe.plan import BlockJob, Step
from bitwright.recipe.recipe import Search
from bitwright.solvers import Nearest, Problem


@dataclass(frozen=True, slots=True)
class Rows:
    """The calibration rows; the last `held_out` are held out."""

    tokens: Int64[Tensor, "count length"]
    held_out: int

    @property
    def count(self) -> int:
        """How many there are."""
        return self.tokens.shape[0]

    @property
    def length(self) -> int:
        """Tokens in each."""
        return self.tokens.shape[1]

    @property
    def fitted(self) -> list[tuple[int, int]]:
        """Batches of the rows that sums are made of."""
        return batches(0, self.count - self.held_out, self.length)

    @property
    def kept_back(self) -> list[tuple[int, int]]:
        """Batches of the held-out rows."""
        return batches(self.count - self.held_out, self.count, self.length)

    @property
    def all(self) -> list[tuple[int, int]]:
        """Batches of all rows; a batch never mixes fitted and held-out ones."""
        return self.fitted + self.kept_back


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What to store of a block: quantized tensors by weight name, kept parameters, and the report as plain data."""

    qtensors: Mapping[str, QTensor]
    kept: Mapping[str, Tensor]
    report: Mapping[str, Any]


def quantize_block(
    job: BlockJob, search: Search, runner: TorchRunner, weights: Mapping[str, Tensor], flow: Flow | None
) -> BlockResult:
    """The block's result; `flow` None: no calibration data, so every step is data-free."""
    planned = {step.linear.view.parameter for step in job.steps}
    kept = {name: tensor for name, tensor in weights.items() if name not in planned}
    if flow is None:
        outcomes = [_data_free(step, weights) for step in job.steps]
        return BlockResult(_tensors(outcomes), kept, _report(job, outcomes, weights, None, None))
    own = {name: tensor.clone() if name in planned else tensor for name, tensor in weights.items()}
    block = Pass(runner, job.index, runner.block(job.index, weights), runner.block(job.index, own), flow.rows.tokens)
    held = Held(runner.weights, runner.dtype)
    tape = plan_tape(job, flow.behind.original.path.parent, flow.rows.count, flow.rows.length, held)
    block = enter(block, job, flow, tape)
    held_out = HeldOut(flow.before, flow.behind.original, flow.rows.kept_back)
    stage_run = StageRun(block, search, held_out, dict(weights))
    baseline = _nearest_error(job, block, held_out, weights)
    outcomes = []
    for stage in job.stages:
        outcomes += stage_run.run(stage, flow.before, flow.rows.fitted)
    error = held_out.error(block) if flow.rows.held_out else None
    if search.guard and error is not None and baseline is not None and error > baseline:
        outcomes = [_fall_back(outcome, weights, (error, baseline)) for outcome in outcomes]
        writer = Writer(block.quantized, job.block.name)
        for outcome in outcomes:
            writer.put_qtensor(outcome.step.linear.view, outcome.solution.qtensor)
        _walk_again(block, job)
        error = held_out.error(block)
    leave(block, flow)
    return BlockResult(_tensors(outcomes), kept, _report(job, outcomes, weights, error, baseline))


@dataclass(frozen=True, slots=True)
class Flow:
    """The streams before and behind a block."""

    rows: Rows
    before: Pair
    behind: Pair


def enter(block: Pass, job: BlockJob, flow: Flow, tape: Tape | None = None) -> Pass:
    """Run the original over all rows; the block with what that run left behind (the tape has been filled)."""
    notes = Notes(tape)
    if tape is not None:
        tape.create()

    def run(start: int, stop: int) -> Tensor:
        return notes.run(block, flow.before.original.read(start, stop), start)

    _write(block, run, flow.behind.original, flow.rows)
    return replace(block, tape=notes.tape, passage=notes.passage(block, job, flow.before.quantized, flow.rows.all))


def leave(block: Pass, flow: Flow) -> None:
    """Run the quantized block over all rows, from where they are."""
    _write(
        block, lambda start, stop: block.output(flow.before.quantized, start, stop), flow.behind.quantized, flow.rows
    )


def replay(block: Pass, job: BlockJob, flow: Flow) -> None:
    """Both streams behind a block whose weights are known, number for number as when they were found."""
    block = enter(block, job, flow)
    _walk_again(block, job)
    leave(block, flow)


def _walk_again(block: Pass, job: BlockJob) -> None:
    """Take all rows from before the block to before its last stage, stopping where they stop when it is rounded."""
    if block.passage is not None:
        block.passage.restart()
        for stage in job.stages:
            block.passage.enter(stage)


def _write(block: Pass, run: Callable[[int, int], Tensor], target: StreamFile, rows: Rows) -> None:
    """Fill a stream file with what `run` gives for every batch of rows."""
    target.create()
    for start, stop in rows.all:
        output = run(start, stop)
        if not math.isfinite(float(output.sum())) and not bool(torch.isfinite(output).all()):  # one look suffices
            dtype, name = block.runner.dtype, block.runner.graph.blocks[block.index].name
            row = start + int((~torch.isfinite(output)).flatten(1).any(1).nonzero()[0])
            remedy = "" if dtype == torch.float32 else "; compute in float32 (--compute float32)"
            what = f"{name}: its output for calibration row {row} is not finite"
            raise ValueError(f"{what}; the model overflows in {dtype}{remedy}")
        target.write(start, output)
    target.sync()


def matrix_of(step: Step, weights: Mapping[str, Tensor]) -> Tensor:
    """The step's weight as it was [out, in], float32."""
    return step.linear.view.read(weights[step.linear.view.parameter]).float()


def _data_free(step: Step, weights: Mapping[str, Tensor]) -> Outcome:
    weight = matrix_of(step, weights)
    solution = step.solver.solve(Problem(weight, step.spec))
    energy = max(float(weight.double().square().sum()), 1e-30)
    plain = Nearest().solve(Problem(weight, step.spec)).loss / energy
    return Outcome(step, solution, "without data", solution.loss / energy, plain)


def _nearest_error(job: BlockJob, block: Pass, held_out: HeldOut, weights: Mapping[str, Tensor]) -> float | None:
    """The held-out error with all weights of the block rounded to nearest; the weights are put back afterwards."""
    if not held_out.ranges:
        return None
    writer = Writer(block.quantized, job.block.name)
    for step in job.steps:
        writer.put_qtensor(step.linear.view, Nearest().solve(Problem(matrix_of(step, weights), step.spec)).qtensor)
    error = held_out.error(block)
    for step in job.steps:
        writer.put(step.linear.view, step.linear.view.read(weights[step.linear.view.parameter]))
    return error


def _fall_back(outcome: Outcome, weights: Mapping[str, Tensor], errors: tuple[float, float]) -> Outcome:
    """The weight rounded to nearest, because the block as a whole came out worse than that on the held-out rows."""
    note = f"rounded to nearest: held-out block error {errors[1]:.4g} instead of {errors[0]:.4g}"
    solution = Nearest().solve(Problem(matrix_of(outcome.step, weights), outcome.step.spec))
    solution = replace(solution, notes=(*outcome.solution.notes, note))
    return replace(outcome, solution=solution, chosen="nearest", loss=outcome.loss_nearest)


def _tensors(outcomes: list[Outcome]) -> dict[str, QTensor]:
    return {outcome.step.name: outcome.solution.qtensor for outcome in outcomes}


def _report(
    job: BlockJob,
    outcomes: list[Outcome],
    weights: Mapping[str, Tensor],
    error: float | None,
    baseline: float | None,
) -> dict[str, Any]:
    """The block's part of the manifest."""
    return {
        "name": job.block.name,
        "error": error,
        "error_nearest": baseline,
        "notes": list(job.block.notes),
        "weights": [weight_report(outcome, matrix_of(outcome.step, weights), job.index) for outcome in outcomes],
    }


def weight_report(outcome: Outcome, weight: Tensor, block: int | None) -> dict[str, Any]:
    """One weight's entry in the manifest; `weight` is what it was."""
    step, qtensor = outcome.step, outcome.solution.qtensor
    view, spec = step.linear.view, step.spec
    codes, scales, zeros = spec.bits_by_part(view.shape)
    entry: dict[str, Any] = {
        "name": view.name,
        "parameter": view.parameter,
        "index": view.index,
        "transposed": view.transposed,
        "block": block,
        "shape": list(view.shape),
        "spec": str(spec),
        "stored": to_plain(spec),
        "bits": qtensor.bits,
        "code_bits": codes,
        "scale_bits": scales,
        "zero_bits": zeros,
        "solver": type(step.solver).__name__,
        "chosen": outcome.chosen,
        "loss": outcome.loss,
        "loss_nearest": outcome.loss_nearest,
        "sqnr_db": -10 * math.log10(max(outcome.loss, 1e-30)),
        "notes": list(outcome.solution.notes),
    }
    params = qtensor.params
    histogram = distribution(weight)
    if histogram is not None:
        histogram["grid"] = [] if params is None else grid(spec, params.scale, params.zero)
    entry |= {
        "histogram": histogram,
        "input_histogram": None if outcome.sample is None else distribution(outcome.sample),
    }
    return entry | remedies(weight, spec, outcome.gram_diagonal, outcome.loss)
