"""One table for whole networks: Bitwright's INT8 ONNX files beside those of ONNX Runtime's quantizer and of NNCF.

Every tool gets the same float ONNX file and the same calibration samples, and leaves an ONNX file. All are scored alike
in ONNX Runtime on the evaluation split: the drop of the metric with its paired 95 % interval, and the signal-to-noise
ratio of the outputs (``accuracy``). ``speed`` times all files in ONNX Runtime and OpenVINO beside the float file,
``ranges`` the calibration pass alone.

    python benchmarks/vision.py accuracy --zoo DIR --work DIR --peer-python PYTHON [--tasks resnet20 dscnn]
    python benchmarks/vision.py speed --zoo DIR --work DIR --peer-python PYTHON --tasks mobilenet_v2 minilm
    python benchmarks/vision.py ranges --zoo DIR --work DIR --peer-python PYTHON --tasks mobilenet_v2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from vision_speed import CLOCKS, RULES, ranges, speed
from vision_tasks import Task, interval, tasks
from vision_tools import Tool, made, ours, peer, prepare, session


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=("accuracy", "speed", "ranges"))
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--peer-python", help="a Python with onnxruntime and nncf; without it only ours is shown")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--recipes", nargs="+", default=["int8"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others use the machine; 1 thread")
    parser.add_argument("--rules", choices=RULES, nargs="+", default=["minmax"])
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    known = tasks(arguments.zoo)
    for name in arguments.tasks or known:
        if arguments.table == "ranges":
            ranges(known[name], arguments.peer_python, arguments.work, arguments.rules)
        elif arguments.table == "speed":
            tools = [*_tools(arguments), ours("int8", "openvino")]
            clock = CLOCKS[arguments.clock]
            speed(known[name], tools, arguments.work, (arguments.threads, arguments.batches, clock))
        elif known[name].evaluation is not None:
            accuracy(known[name], _tools(arguments), arguments.work)


def _tools(arguments: argparse.Namespace) -> list[Tool]:
    """The recipes asked for, and the peers where there is a Python for them."""
    tools = [ours(recipe) for recipe in arguments.recipes]
    if arguments.peer_python:
        tools += [
            peer("onnxruntime minmax", "ort_static.py", arguments.peer_python),
            peer("onnxruntime percentile", "ort_static.py", arguments.peer_python, "--method", "Percentile"),
            peer("nncf", "nncf_ptq.py", arguments.peer_python),
            peer("nncf accurate bias", "nncf_ptq.py", arguments.peer_python, "--accurate-bias"),
        ]
    return tools


if __name__ == "__main__":
    main()
