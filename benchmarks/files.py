"""One table for any ONNX file: Bitwright's recipes beside ONNX Runtime's quantizer and NNCF.

Every tool calibrates on the same samples; all files run in ONNX Runtime, on samples that calibrated nothing.

    python benchmarks/files.py MODEL.onnx --calibration A.npz --evaluation B.npz --work DIR --peer-python PYTHON

Both `.npz` files hold an array for every input, whose first axis counts samples. `--peer-python` is as in vision.py.
The peers need opset 13, so they get a copy that onnx's own converter made of an older file; Bitwright gets it as it is.
Printed are the SQNR of every output (dB; and where it has a last axis, how often its largest number is at the same
place), the latency beside the float file's with the interval of the bootstrap over turns, the file's size, and what
making it took. What a tool made is kept in `--work` and not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor
from vision_accuracy import sqnr
from vision_speed import CLOCKS, FLOAT, TURNS, Pace, print_latency
from vision_tools import Made, Ready, Tool, made, ours, peer

from bitwright.execute.onnx_profile import OnnxSession

OPSET = 13  # from which the peers write files that load
Outputs = list[dict[str, Tensor]]  # sample by sample, by name


def main() -> None:
    arguments = _arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    ready = Ready(arguments.model.resolve(), arguments.calibration.resolve(), arguments.work.resolve())
    converted = Ready(_converted(ready), ready.samples, ready.work)
    found = [(tool, made(tool, ready)) for tool in map(ours, arguments.recipes)]
    if arguments.peer_python:
        python = str(Path(arguments.peer_python).absolute())  # not resolved: it may be a link
        batch = _first_axis(ready.model)
        found += [(tool, made(tool, converted)) for tool in _peers(python, batch)]
    results = {tool.name: result for tool, result in found if result is not None and not tool.is_simulated}
    with np.load(arguments.evaluation) as stored:
        feeds = {name: torch.from_numpy(stored[name]) for name in stored.files}
    pace = Pace(arguments.threads, arguments.batches, CLOCKS[arguments.clock], TURNS)
    _print(ready.model, results, feeds, pace)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="what tools make goes here, and is found here again")
    parser.add_argument("--peer-python", help="a Python with onnxruntime and nncf; without it only ours is shown")
    parser.add_argument("--recipes", nargs="+", default=["int8"], help="presets or TOML files")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others use the machine; 1 thread")
    return parser.parse_args()


def _converted(ready: Ready) -> Path:
    """The model in an opset that the peers can write, beside what they make."""
    model = onnx.load(ready.model)
    if next(held.version for held in model.opset_import if held.domain in ("", "ai.onnx")) >= OPSET:
        return ready.model
    path = ready.work / ready.model.name
    onnx.save(onnx.version_converter.convert_version(model, OPSET), path)
    return path


def _first_axis(model: Path) -> int:
    """How many samples the file takes at once where it says so, else 8."""
    sizes = [shape[0] for shape in OnnxSession(model).inputs.values() if shape]
    return next((size for size in sizes if isinstance(size, int) and size > 0), 8)


def _peers(python: str, batch: int) -> list[Tool]:
    static = ("ort_static.py", "--batch", str(batch), "--transformer")  # its symbolic shapes fail on some files
    return [
        peer("onnxruntime minmax", python, *static),
        peer("onnxruntime percentile", python, *static, "--method", "Percentile"),
        peer("nncf", python, "nncf_ptq.py"),
    ]


def _print(model: Path, results: dict[str, Made], feeds: dict[str, Tensor], pace: Pace) -> None:
    sessions = {FLOAT: OnnxSession(model, pace.threads)}
    sessions |= {name: OnnxSession(result.path, pace.threads) for name, result in results.items()}
    before = _outputs(sessions[FLOAT], feeds)
    for name, result in results.items():
        after = _outputs(sessions[name], feeds)
        columns = [
            f"{key} {_agreement([one[key] for one in before], [one[key] for one in after])}" for key in before[0]
        ]
        size = f"{model.stat().st_size / 1e6:.2f} -> {result.file_bytes / 1e6:.2f} MB"
        print(f"{name:28}{size:22}{result.seconds:6.0f} s {result.peak_bytes / 1e6:7.0f} MB  {'; '.join(columns)}")
    for batch in pace.batches:
        cut = {name: tensor[:batch] if tensor.dim() else tensor for name, tensor in feeds.items()}
        raws = {name: session.raw(cut) for name, session in sessions.items()}
        runs = {name: (lambda held=held, raw=raws[name]: held.run_raw(raw)) for name, held in sessions.items()}
        print_latency("", runs, batch, pace)


def _outputs(session: OnnxSession, feeds: dict[str, Tensor]) -> Outputs:
    count = max(len(tensor) for tensor in feeds.values() if tensor.dim())
    return [session.run({name: t[i : i + 1] if t.dim() else t for name, t in feeds.items()}) for i in range(count)]


def _agreement(before: Sequence[Tensor], after: Sequence[Tensor]) -> str:
    """The SQNR of an output, and how often its largest number is at the same place of the last axis."""
    text = f"{sqnr(before, after):.1f} dB"
    if before[0].dim() < 2 or before[0].shape[-1] < 2:
        return text
    same = [(a.argmax(-1) == b.argmax(-1)).double() for a, b in zip(before, after, strict=True)]
    return f"{text} {100 * float(torch.cat([held.reshape(-1) for held in same]).mean()):.0f} %"


if __name__ == "__main__":
    main()
