"""Tools that turn a float ONNX file and calibration samples into a quantized file, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from vision_tasks import Task

from bitwright.store.torch_module import export_module

HERE = Path(__file__).parent
EXAMPLE = 2  # samples that a module is exported with


@dataclass(frozen=True)
class Tool:
    """Something that turns a float file and samples into a quantized file, in a process of its own."""

    name: str
    command: Callable[[Path, Path, Path], list[str]]


def ours(recipe: str, target: str = "x86-vnni") -> Tool:
    def command(model: Path, samples: Path, out: Path) -> list[str]:
        folder = str(out.with_suffix(""))
        base = [sys.executable, "-m", "bitwright.cli", "quantize", str(model), "--recipe", recipe]
        return [*base, "--calibration", str(samples), "--target", target, "--to", "onnx", "-o", folder]

    return Tool(f"bitwright {recipe}" if target == "x86-vnni" else f"bitwright {recipe} {target}", command)


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
