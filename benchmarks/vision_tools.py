"""Tools that turn a float ONNX file and calibration samples into a quantized network, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from torch import Tensor
from vision_tasks import Task

from bitwright.execute.onnx_runner import session_options
from bitwright.recipe.forms import Activations
from bitwright.recipe.network_text import load_network_recipe
from bitwright.store.torch_module import export_module

HERE = Path(__file__).resolve().parent
EXAMPLE = 2  # samples that a module is exported with


@dataclass(frozen=True)
class Tool:
    """Something that turns a float file and samples into a quantized file. `recipe`: ours, "" for a peer."""

    name: str
    command: Callable[[Path, Path, Path], list[str]]
    recipe: str = ""
    is_simulated: bool = False


@dataclass(frozen=True)
class Made:
    """What a tool left: an ONNX file, or the folder of a network that no engine runs, and what that took."""

    path: Path
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Ready:
    """The float file and the calibration samples of a task, and where results go."""

    model: Path
    samples: Path
    work: Path


def ours(recipe: str, target: str | None = None) -> Tool:
    """A recipe through the command line, on all samples: a preset, a TOML file, or one of `recipes/` by its name.

    `target` None: the one that this machine is. Where no engine runs what comes of it, no ONNX file is asked for.
    """
    written = HERE / "recipes" / f"{recipe}.toml"
    recipe = str(written if written.is_file() else Path(recipe).resolve() if recipe.endswith(".toml") else recipe)
    asked = load_network_recipe(recipe)
    is_simulated = asked.activation_bits != 8 and asked.activations is Activations.STATIC
    form = [] if is_simulated else ["--to", "onnx", "--no-verify"]

    def command(model: Path, samples: Path, out: Path) -> list[str]:
        with np.load(samples) as stored:
            count = len(stored[stored.files[0]])
        base = [sys.executable, "-m", "bitwright.cli", "quantize", str(model), "--recipe", recipe, *form]
        given = ["--calibration", str(samples), "--samples", str(count), *(["--target", target] if target else [])]
        return [*base, *given, "-o", str(out.with_suffix(""))]

    name = f"bitwright {Path(recipe).stem}" + (f" {target}" if target else "")
    return Tool(name, command, Path(recipe).stem, is_simulated)


def peers(task: Task, python: str) -> list[Tool]:
    """The peers' ways for a task, run by this Python."""
    scripts = {
        "onnxruntime minmax": ("ort_static.py",),
        "onnxruntime entropy": ("ort_static.py", "--method", "Entropy"),
        "onnxruntime percentile": ("ort_static.py", "--method", "Percentile"),
        "nncf": ("nncf_ptq.py",),
        "nncf accurate bias": ("nncf_ptq.py", "--accurate-bias"),
    }
    if "int8_dynamic" in task.reach:
        scripts["onnxruntime dynamic"] = ("ort_dynamic.py",)
    if "int8_per_tensor" in task.reach:
        scripts["onnxruntime per tensor"] = ("ort_static.py", "--per-tensor")
    form = ("--transformer",) if task.is_transformer else ()
    return [peer(name, python, *script, *form) for name, script in scripts.items()]


def peer(name: str, python: str, script: str, *options: str) -> Tool:
    """A script of `peers/`, run by this Python."""

    def command(model: Path, samples: Path, out: Path) -> list[str]:
        return [python, str(HERE / "peers" / script), str(model), str(samples), str(out), *options]

    return Tool(name, command)


def prepare(task: Task, work: Path, count: int | None = None) -> Ready:
    """The float file and the calibration samples of a task, or so many of them, evenly spread; made once."""
    model, samples = work / f"{task.name}.onnx", work / f"{task.name}.npz"
    if not samples.is_file():
        arrays = {name: _spread(tensor, count) for name, tensor in task.calibration().items()}
        example = tuple(tensor[:EXAMPLE] for tensor in arrays.values())
        export_module(task.model().eval(), example, model, free_sizes=task.free_sizes)
        inputs = session(model, 1).get_inputs()
        np.savez(samples, **{put.name: tensor.numpy() for put, tensor in zip(inputs, arrays.values(), strict=True)})
    return Ready(model, samples, work)


def _spread(tensor: Tensor, count: int | None) -> Tensor:
    return tensor if count is None else tensor[:: max(1, len(tensor) // count)][:count]


def made(tool: Tool, ready: Ready) -> Made | None:
    """What the tool made, now or in an earlier call; None, and a line that says so, where the tool failed."""
    out = ready.work / f"{ready.model.stem}.{tool.name.replace(' ', '_')}.onnx"
    note = out.with_suffix(".json")
    if not note.is_file():
        measured = [sys.executable, str(HERE / "peers" / "measured.py"), str(note)]
        command = [*measured, *tool.command(ready.model, ready.samples, out)]
        run = subprocess.run(
            command,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
            cwd=ready.work,  # ONNX Runtime's shape inference leaves files where it runs
        )
        if run.returncode:
            reason = run.stderr.decode(errors="replace").strip().splitlines()
            print(
                f"{ready.model.stem:14}{tool.name:28}failed ({run.returncode}): {reason[-1] if reason else ''}",
                flush=True,
            )
            return None
    folder = out.with_suffix("")
    path = next(iter(sorted(folder.glob("export/onnx/*.onnx"))), folder if tool.is_simulated else out)
    files = [folder / "weights.safetensors"] if tool.is_simulated else path.parent.glob(f"{path.name}*")
    return Made(path, **json.loads(note.read_text()), file_bytes=sum(file.stat().st_size for file in files))


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), session_options(threads), providers=["CPUExecutionProvider"])
