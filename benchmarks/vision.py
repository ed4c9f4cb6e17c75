"""One table for whole networks: Bitwright's recipes beside ONNX Runtime's quantizer and NNCF.

Every tool gets the same float ONNX file and the same calibration samples. All are scored alike on the evaluation split,
files in ONNX Runtime, what no engine runs as it is simulated.

accuracy: the figure, its drop from float32 with a paired interval, what was asked, the SQNR of the outputs, seconds,
          processor seconds, peak memory, and the bytes of the file
speed:    the latency of every file in ONNX Runtime and OpenVINO, beside float32 and bfloat16
ranges:   processor seconds and peak memory of the calibration pass alone

    python benchmarks/vision.py accuracy --zoo DIR --work DIR --peer-python PYTHON
    python benchmarks/vision.py accuracy --zoo DIR --work DIR --tasks resnet20 --recipes int8 my_recipe.toml
    python benchmarks/vision.py speed --zoo DIR --work DIR --peer-python PYTHON --tasks mobilenet_v2 minilm
    python benchmarks/vision.py ranges --zoo DIR --work DIR --peer-python PYTHON --tasks mobilenet_v2

`--peer-python` is a Python of an environment with `pip install nncf onnxruntime onnx`; without it only ours is shown.
Recipes are by default those for which a figure is asked. `--quick` takes few samples and few turns, to see that all of
it runs. What a tool made is kept in `--work` and not made again: take a new folder for new code.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vision_accuracy import HEAD, accuracy
from vision_speed import CLOCKS, QUICK, RULES, TURNS, Pace, ranges, speed
from vision_tasks import Task, tasks
from vision_tools import Tool, ours, peers, prepare

from bitwright.numerics.machine import this_machine
from bitwright.recipe.targets import suited

QUICK_SAMPLES, QUICK_BATCHES = 16, 1


def main() -> None:
    arguments = _arguments()
    arguments.work = arguments.work.resolve()
    if arguments.peer_python:
        arguments.peer_python = str(Path(arguments.peer_python).absolute())  # not resolved: it may be a link
    arguments.work.mkdir(parents=True, exist_ok=True)
    known = tasks(arguments.zoo)
    if arguments.table == "accuracy":
        print(HEAD, flush=True)
    for name in arguments.tasks or known:
        task = known[name]
        ready = prepare(task, arguments.work, QUICK_SAMPLES if arguments.quick else None)
        if arguments.table == "ranges":
            ranges(task, ready, arguments.peer_python, arguments.rules)
        elif arguments.table == "speed":
            tools = [*_tools(task, arguments, ["int8"]), ours("int8", suited("openvino", this_machine()))]
            turns = QUICK if arguments.quick else TURNS
            speed(task, ready, tools, Pace(arguments.threads, arguments.batches, CLOCKS[arguments.clock], turns))
        else:
            how = arguments.threads, QUICK_BATCHES if arguments.quick else None
            accuracy(task, _tools(task, arguments, list(task.reach)), ready, how)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=("accuracy", "speed", "ranges"))
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="what tools make goes here, and is found here again")
    parser.add_argument("--peer-python", help="a Python with onnxruntime and nncf; without it only ours is shown")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--recipes", nargs="+", help="presets or TOML files")
    parser.add_argument("--peers", nargs="+", help="peers whose name begins so")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others use the machine; 1 thread")
    parser.add_argument("--rules", choices=RULES, nargs="+", default=["minmax"])
    parser.add_argument("--quick", action="store_true", help="few samples and turns: the figures mean nothing")
    return parser.parse_args()


def _tools(task: Task, arguments: argparse.Namespace, recipes: Sequence[str]) -> list[Tool]:
    """The recipes asked for, and the peers where there is a Python for them."""
    tools = [ours(recipe) for recipe in arguments.recipes or recipes]
    if arguments.peer_python:
        wanted = tuple(arguments.peers or ("",))
        tools += [tool for tool in peers(task, arguments.peer_python) if tool.name.startswith(wanted)]
    return tools


if __name__ == "__main__":
    main()
