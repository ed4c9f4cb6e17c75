"""How long files take in each engine, and the range pass in each tool.

In every turn all files run once, in an order that is drawn anew, so that whatever else the machine does meets all
alike. What is printed is the median, and its ratio to the float file's with the interval of the bootstrap over turns.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from vision_tasks import Task
from vision_tools import HERE, Ready, Tool, made

from bitwright.evaluate.latency import latency
from bitwright.evaluate.side_by_side import Session
from bitwright.execute import openvino_session
from bitwright.execute.onnx_profile import OnnxSession
from bitwright.execute.openvino_session import OpenVinoSession

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
WARM, TURNS, QUICK, LONGEST = 3, 60, 4, 60.0  # turns before it counts, turns, seconds after which none begins
SHORTEST = 0.002  # seconds of one timing
FLOAT = "float32"
# ONNX Runtime holds all values of all samples for the last two: 17 GB for 256 pictures of MobileNetV2
RULES = ("minmax", "percentile", "entropy")


@dataclass(frozen=True)
class Pace:
    """How it is timed."""

    threads: int
    batches: Sequence[int]
    clock: Clock
    turns: int


def speed(task: Task, ready: Ready, tools: Sequence[Tool], pace: Pace) -> None:
    """Print the latency of every file that an engine runs."""
    arrays = _arrays(task, ready, max(pace.batches))
    results = {tool.name: made(tool, ready) for tool in tools if not tool.is_simulated}
    files = {name: result.path for name, result in results.items() if result is not None}
    for engine, sessions in _sessions(ready.model, files, pace.threads).items():
        for batch in pace.batches:
            runs = {name: _run(session, arrays, batch) for name, session in sessions.items()}
            print_latency(f"{task.name:14}{engine:14}", runs, batch, pace)


def print_latency(label: str, runs: Mapping[str, Callable[[], object]], batch: int, pace: Pace) -> None:
    """Time every run beside the float one's, and print a line for each."""
    times = timed(runs, pace)
    for name, seconds in times.items():
        held = latency(torch.tensor([seconds, times[FLOAT]], dtype=torch.float64).T, FLOAT, str(batch))
        print(
            f"{label}batch {batch:<4}{name:28}{held.milliseconds:9.2f} ms  {held.speedup:5.2f} x float32 "
            f"[{held.low:.2f}, {held.high:.2f}]",
            flush=True,
        )


def _arrays(task: Task, ready: Ready, count: int) -> dict[str, Tensor]:
    """So many samples to time with, by the names of the file's inputs; repeated where there are fewer."""
    with np.load(ready.samples) as stored:
        arrays = {name: torch.from_numpy(stored[name][:count]) for name in stored.files}
    if task.timed is not None:
        arrays = dict(zip(arrays, task.timed().values(), strict=True))
    return {
        name: array.repeat(-(-count // len(array)), *[1] * (array.dim() - 1))[:count] for name, array in arrays.items()
    }


def _sessions(model: Path, files: Mapping[str, Path], threads: int) -> dict[str, dict[str, Session]]:
    """Every file in every engine that is here, the float file in each precision of the engine."""
    found: dict[str, dict[str, Session]] = {
        "ONNX Runtime": {name: OnnxSession(path, threads) for name, path in {FLOAT: model, **files}.items()}
    }
    if openvino_session.is_installed():
        floats: dict[str, Session] = {FLOAT: OpenVinoSession(model, threads, "f32")}
        if openvino_session.has_bfloat16():
            floats["bfloat16"] = OpenVinoSession(model, threads, "bf16")
        found["OpenVINO"] = floats | {name: OpenVinoSession(path, threads) for name, path in files.items()}
    return found


def _run(session: Session, arrays: Mapping[str, Tensor], batch: int) -> Callable[[], object]:
    raw = session.raw({name: array[:batch] for name, array in arrays.items()})
    return lambda: session.run_raw(raw)


def timed(runs: Mapping[str, Callable[[], object]], pace: Pace) -> dict[str, list[float]]:
    """Seconds of one run of each, turn by turn."""
    repeats = {name: _repeats(run) for name, run in runs.items()}
    found: dict[str, list[float]] = {name: [] for name in runs}
    order, draws = list(runs), random.Random(0)
    started = time.perf_counter()
    for turn in range(WARM + pace.turns):
        draws.shuffle(order)
        for name in order:
            begun = pace.clock()
            for _ in range(repeats[name]):
                runs[name]()
            if turn >= WARM:
                found[name].append((pace.clock() - begun) / repeats[name])
        if turn > WARM + 10 and time.perf_counter() - started > LONGEST:
            break
    return found


def _repeats(run: Callable[[], object]) -> int:
    """How many runs one timing takes: enough for the clock. The first run is not counted."""
    run()
    begun = time.process_time()
    run()
    return max(1, round(SHORTEST / max(time.process_time() - begun, 1e-5)))


def ranges(task: Task, ready: Ready, peer_python: str | None, rules: Sequence[str]) -> None:
    """Print processor time and peak memory of the range pass of every tool, as ratios to ours."""
    tools = {"bitwright": sys.executable} | ({"onnxruntime": peer_python, "nncf": peer_python} if peer_python else {})
    for rule in rules:
        ours: dict[str, float] = {}
        for tool, python in tools.items():
            command = [
                python,
                str(HERE / "peers" / "ranges.py"),
                tool,
                str(ready.model),
                str(ready.samples),
                "--rule",
                rule,
            ]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                reason = run.stderr.strip().splitlines()
                print(f"{task.name:14}{rule:12}{tool:14}failed: {reason[-1] if reason else run.returncode}", flush=True)
                continue
            found = json.loads(run.stdout.strip().splitlines()[-1])
            ours = ours or found
            print(
                f"{task.name:14}{rule:12}{tool:14}{found['seconds']:7.2f} s ({found['seconds'] / ours['seconds']:.2f}x)"
                f"  {found['peak_bytes'] / 1e9:5.2f} GB ({found['peak_bytes'] / ours['peak_bytes']:.2f}x)",
                flush=True,
            )
