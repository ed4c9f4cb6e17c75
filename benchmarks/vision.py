"""One table for whole networks: Bitwright's INT8 ONNX files beside those of ONNX Runtime's quantizer and of NNCF.

Every tool gets the same float ONNX file and the same calibration samples, and leaves an ONNX file. All are scored alike
in ONNX Runtime on the evaluation split: the drop of the metric with its paired 95 % interval, the signal-to-noise ratio
of the outputs, and (``speed``) the time against the float file, run in turn with it.

    python benchmarks/vision.py accuracy --zoo DIR --work DIR --peer-python PYTHON [--tasks resnet20 dscnn]
    python benchmarks/vision.py speed --zoo DIR --work DIR --peer-python PYTHON --tasks mobilenet_v2
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from vision_tasks import Task, interval, tasks

from bitwright.store.torch_module import export_module

HERE = Path(__file__).parent
EXAMPLE = 2  # samples that a module is exported with


@dataclass(frozen=True)
class Tool:
    """Something that turns a float file and samples into a quantized file, in a process of its own."""

    name: str
    command: Callable[[Path, Path, Path], list[str]]


def ours(recipe: str) -> Tool:
    def command(model: Path, samples: Path, out: Path) -> list[str]:
        folder = str(out.with_suffix(""))
        base = [sys.executable, "-m", "bitwright.cli", "quantize", str(model), "--recipe", recipe]
        return [*base, "--calibration", str(samples), "--target", "x86-vnni", "--to", "onnx", "-o", folder]

    return Tool(f"bitwright {recipe}", command)


def peer(name: str, script: str, python: str, *options: str) -> Tool:
    def command(model: Path, samples: Path, out: Path) -> list[str]:
        return [python, str(HERE / "peers" / script), str(model), str(samples), str(out), *options]

    return Tool(name, command)


def prepare(task: Task, work: Path) -> tuple[Path, Path]:
    """The float file and the calibration samples of a task, made once."""
    model, samples = work / f"{task.name}.onnx", work / f"{task.name}.npz"
    if not samples.is_file():
        arrays = task.calibration()
        example = {name: tensor[:EXAMPLE] for name, tensor in arrays.items()}
        export_module(task.model().eval(), tuple(example.values()), model, free_space=task.free_space)
        inputs = session(model, 1).get_inputs()
        renamed = {put.name: tensor.numpy() for put, tensor in zip(inputs, arrays.values(), strict=True)}
        np.savez(samples, **renamed)
    return model, samples


def made(tool: Tool, model: Path, samples: Path, work: Path) -> tuple[Path, float] | None:
    """The tool's file and the seconds it took; None, and a line that says so, where the tool failed."""
    out = work / f"{model.stem}.{tool.name.replace(' ', '_')}.onnx"
    note = out.with_suffix(".json")
    if not note.is_file():
        started = time.perf_counter()
        run = subprocess.run(tool.command(model, samples, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if run.returncode:
            reason = run.stderr.decode(errors="replace").strip().splitlines()
            print(f"{model.stem:14}{tool.name:28}failed ({run.returncode}): {reason[-1] if reason else ''}", flush=True)
            return None
        note.write_text(json.dumps({"seconds": time.perf_counter() - started}))
    exported = sorted(out.with_suffix("").glob("export/onnx/*.onnx"))
    return (exported[0] if exported else out), json.loads(note.read_text())["seconds"]


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def outputs(path: Path, task: Task) -> tuple[list[Tensor], Tensor]:
    """The first output for every evaluation batch, and the score of every sample."""
    run = session(path, 2)
    names = [put.name for put in run.get_inputs()]
    found, scores = [], []
    for feeds, target in task.evaluation():
        given = {name: tensor.numpy() for name, tensor in zip(names, feeds.values(), strict=True)}
        output = torch.from_numpy(run.run(None, given)[0])
        found.append(output)
        scores.append(task.score(output, target))
    return found, torch.cat(scores)


def sqnr(reference: list[Tensor], found: list[Tensor]) -> float:
    wrong = sum(float((a - b).double().square().sum()) for a, b in zip(reference, found, strict=True))
    return 10 * float(np.log10(sum(float(a.double().square().sum()) for a in reference) / max(wrong, 1e-30)))


def accuracy(task: Task, tools: list[Tool], work: Path) -> None:
    model, samples = prepare(task, work)
    reference, before = outputs(model, task)
    print(f"{task.name:14}{'float32':28}{float(before.mean()):10.4f} {task.unit}", flush=True)
    for tool in tools:
        result = made(tool, model, samples, work)
        if result is None:
            continue
        path, seconds = result
        found, after = outputs(path, task)
        low, high = interval(before - after if task.higher_is_better else after - before)
        drop = float((before - after).mean()) * (1 if task.higher_is_better else -1)
        print(
            f"{task.name:14}{tool.name:28}{float(after.mean()):10.4f} {task.unit}  drop {drop:8.4f} "
            f"[{low:.4f}, {high:.4f}]  SQNR {sqnr(reference, found):5.1f} dB  {seconds:6.0f} s",
            flush=True,
        )


def speed(task: Task, tools: list[Tool], work: Path, threads: int) -> None:
    model, samples = prepare(task, work)
    with np.load(samples) as stored:
        arrays = {name: stored[name] for name in stored.files}
    results = {tool.name: made(tool, model, samples, work) for tool in tools}
    files = {name: result[0] for name, result in results.items() if result is not None}
    for batch in (1, 8):
        feeds = {name: array[:batch] for name, array in arrays.items()}
        runs = {name: session(path, threads) for name, path in {"float32": model, **files}.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(60):
            for name, run in runs.items():
                started = time.perf_counter()
                run.run(None, feeds)
                if turn >= 10:
                    times[name].append(time.perf_counter() - started)
        base = statistics.median(times["float32"])
        for name, seconds in times.items():
            middle = statistics.median(seconds)
            print(f"{task.name:14}batch {batch}  {name:28}{1000 * middle:9.2f} ms  {base / middle:5.2f} x float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=("accuracy", "speed"))
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--peer-python", help="a Python with onnxruntime and nncf; without it only ours is shown")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--recipes", nargs="+", default=["int8"])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    tools = [ours(recipe) for recipe in arguments.recipes]
    if arguments.peer_python:
        tools += [
            peer("onnxruntime minmax", "ort_static.py", arguments.peer_python),
            peer("onnxruntime percentile", "ort_static.py", arguments.peer_python, "--method", "Percentile"),
            peer("nncf", "nncf_ptq.py", arguments.peer_python),
            peer("nncf accurate bias", "nncf_ptq.py", arguments.peer_python, "--accurate-bias"),
        ]
    known = tasks(arguments.zoo)
    for name in arguments.tasks or known:
        if arguments.table == "accuracy":
            accuracy(known[name], tools, arguments.work)
        else:
            speed(known[name], tools, arguments.work, arguments.threads)


if __name__ == "__main__":
    main()
