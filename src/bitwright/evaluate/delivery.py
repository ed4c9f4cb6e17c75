"""Holds a quantized ONNX file against what it promises: that it runs, agrees, is in integers, and is faster.

All of it is measured on the file as delivered, in the engine as a user runs it, on this machine: the outputs against
the simulation and against the float original, the operators from the engine's own optimised graph, the latency in
turn with the original's. `problems` are reasons not to ship the file; `warnings` say what it falls short of and why.
Where OpenVINO is installed the same is done there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from bitwright.evaluate.agreement import Agreement
from bitwright.evaluate.error import EvaluateError
from bitwright.evaluate.findings import Causes, coarser, judge, simulated, unsound
from bitwright.evaluate.latency import Latency, Timing
from bitwright.evaluate.operators import Operator, causes, count, openvino_causes, openvino_operators, operators_of
from bitwright.evaluate.side_by_side import Job, agreements, latencies
from bitwright.execute import openvino_session
from bitwright.execute.onnx_profile import VERSION, OnnxSession, check_file, code_types, executed, holds_float8
from bitwright.execute.onnx_runner import RunError
from bitwright.execute.openvino_session import OpenVinoSession
from bitwright.numerics.machine import Machine, this_machine

ONNX_RUNTIME = "ONNX Runtime"
OPENVINO = "OpenVINO"


@final
@dataclass(frozen=True, slots=True)
class Trial:
    """What one engine showed. `latencies`: against each precision of the original, and for each size of batch.

    `exact`: the outputs anew with activations in float32, where the engine by itself rounds those that meet 4-bit
    weights (empty where it does not): what the file means, while `outputs` are what a user gets.
    """

    engine: str
    version: str
    outputs: tuple[Agreement, ...]
    operators: tuple[Operator, ...]
    latencies: tuple[Latency, ...]
    exact: tuple[Agreement, ...] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """How many operators ran in which way: integer, float, quantizer, other or idle -> operator -> number."""
        return count(self.operators)


@final
@dataclass(frozen=True, slots=True)
class Delivery:
    """All that was found out about a file. `checker`: what the ONNX checker has against it, "" for nothing.

    `trials`: by engine; one that could not run the file is missing and named in `problems` or `warnings`.
    """

    machine: Machine
    threads: int
    checker: str
    trials: tuple[Trial, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing speaks against shipping the file."""
        return not self.problems

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        plain = asdict(self)
        for trial, row in zip(self.trials, plain["trials"], strict=True):
            row["counts"] = trial.counts()
            row["operators"] = [asdict(one) | {"kind": one.kind.value} for one in trial.operators]
        return plain


def verify(
    delivered: Path,
    original: Path,
    feeds: Sequence[Mapping[str, Tensor]],
    expected: Sequence[Mapping[str, Tensor]] | None = None,
    threads: int = 1,
    timing: Timing = Timing(),
) -> Delivery:
    """What a quantized ONNX file does, beside the float file that it was made from.

    `feeds`: batches of inputs, of which the first is profiled and timed. `expected`: the simulation's outputs of each
    batch. What is wrong with the quantized file is in the result. Raises EvaluateError for files and batches that do
    not belong together, and RunError where the original does not run.
    """
    _check(delivered, original, feeds, expected)
    job = Job(delivered, original, tuple(feeds), None if expected is None else tuple(expected), threads, timing)
    machine = this_machine()
    checker = check_file(delivered)
    problems = (f"the ONNX checker rejects the file: {checker}",) if checker else ()
    outcomes = [_in_onnx_runtime(job, machine)]
    if openvino_session.is_installed():
        outcomes.append(_in_openvino(job, machine))
    return Delivery(
        machine=machine,
        threads=threads,
        checker=checker,
        trials=tuple(one.trial for one in outcomes if one.trial is not None),
        problems=(*problems, *(text for one in outcomes for text in one.problems)),
        warnings=tuple(text for one in outcomes for text in one.warnings),
    )


@final
@dataclass(frozen=True, slots=True)
class _Outcome:
    """What comes of one engine; `trial` is None where it could not run the file."""

    trial: Trial | None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def _in_onnx_runtime(job: Job, machine: Machine) -> _Outcome:
    """What ONNX Runtime shows. A file that it cannot run is a problem."""
    original = operators_of(executed(job.original, job.feeds[0], job.threads))
    floats = OnnxSession(job.original, job.threads)
    try:
        operators = operators_of(executed(job.delivered, job.feeds[0], job.threads), code_types(job.delivered))
        session = OnnxSession(job.delivered, job.threads)
        outputs = agreements(job, session, floats)
        is_packed = any(one.op == "MatMulNBits" for one in operators)
        exact = agreements(job, OnnxSession(job.delivered, job.threads, exact=True), floats) if is_packed else ()
    except RunError as error:
        return _Outcome(None, problems=(f"it does not run in {ONNX_RUNTIME}: {error}",))
    timed, skipped = latencies(job, session, {"fp32": floats})
    trial = Trial(ONNX_RUNTIME, VERSION, outputs, operators, timed, exact)
    return _judged(job, trial, skipped, (machine, tuple(causes(operators, original))))


def _in_openvino(job: Job, machine: Machine) -> _Outcome:
    """What OpenVINO shows, floats in its default precision. Where it cannot run one of the files is a warning."""
    precisions = {"fp32": "f32"} | ({"bf16": "bf16"} if openvino_session.has_bfloat16() else {})
    try:
        floats = {name: OpenVinoSession(job.original, job.threads, kind) for name, kind in precisions.items()}
        session = OpenVinoSession(job.delivered, job.threads)
        outputs = agreements(job, session, floats["fp32"])
        operators = openvino_operators(session.executed())
        timed, skipped = latencies(job, session, floats)
    except RunError as error:
        return _Outcome(None, warnings=(f"not verified in {OPENVINO}: {error}",))
    trial = Trial(OPENVINO, openvino_session.version(), outputs, operators, timed)
    return _judged(job, trial, skipped, (machine, tuple(openvino_causes(operators))))


def _judged(job: Job, trial: Trial, skipped: Sequence[str], causes: Causes) -> _Outcome:
    """A trial with what is to be said of it; of a file that the engine can only simulate, not of its speed."""
    outputs = trial.exact or trial.outputs
    if holds_float8(job.delivered):
        warnings = [*simulated(trial.engine), *judge(trial.engine, outputs, (), (), causes)]
    else:
        warnings = list(judge(trial.engine, outputs, trial.operators, trial.latencies, causes))
    return _Outcome(
        trial,
        problems=tuple(unsound(trial.engine, trial.outputs)),
        warnings=(
            *warnings,
            *coarser(trial.engine, trial.outputs, trial.exact),
            *(f"{trial.engine}: {text}" for text in skipped),
        ),
    )


def _check(
    delivered: Path,
    original: Path,
    feeds: Sequence[Mapping[str, Tensor]],
    expected: Sequence[Mapping[str, Tensor]] | None,
) -> None:
    for path in (delivered, original):
        if not path.is_file():
            raise EvaluateError(f"{path}: no such file; give the path of an .onnx file")
    if not feeds:
        raise EvaluateError("no batch to verify with; give at least one batch of inputs")
    if expected is not None and len(expected) != len(feeds):
        raise EvaluateError(
            f"{len(feeds)} batches of inputs, but {len(expected)} of the simulation's outputs; give one for each"
        )
