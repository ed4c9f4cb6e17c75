"""What the scripts that run another toolkit share: arguments, peak memory, and a dense copy to score.

Each script quantizes with one peer, in the peer's own environment, and leaves an ordinary float32 Hugging
Face folder that holds exactly the values which the peer's codes and scales stand for. One scorer can then
judge everyone. The last line of standard output is one JSON line; what the peer prints once it is imported
goes to standard error.

``seconds`` is the quantization alone, without imports and saving. ``peak_anonymous_bytes`` is the largest
anonymous resident memory of the process until quantization is over: pages mapped from checkpoint files can
be dropped by the system at any time and do not count, and neither does the dense copy that we write after.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

WEIGHT_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Job:
    """What a peer is asked to do, and where the answer goes."""

    model: Path
    out: Path
    rows: list[list[int]]
    bits: int
    group: int
    dtype: str | torch.dtype
    answer: int

    def report(self, **figures: float | str) -> None:
        """Print the figures as one JSON line on the real standard output."""
        os.write(self.answer, (json.dumps(figures) + "\n").encode())


def start_job(description: str) -> Job:
    """The command line's job. From here on, standard output is standard error, but for ``Job.report``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", type=Path, help="folder of the original model")
    parser.add_argument("out", type=Path, help="folder to write the dequantized model to")
    parser.add_argument("--rows", type=Path, required=True, help="int64 token numbers [rows, length], .npy")
    parser.add_argument("--bits", type=int, choices=(2, 3, 4), required=True)
    parser.add_argument("--group", type=int, default=128, help="weights that share a scale and a zero")
    parser.add_argument("--float32", action="store_true", help="load the model in float32, not as stored")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    answer = os.dup(1)
    os.dup2(2, 1)
    return Job(
        model=arguments.model,
        out=arguments.out,
        rows=np.load(arguments.rows).tolist(),
        bits=arguments.bits,
        group=arguments.group,
        dtype=torch.float32 if arguments.float32 else "auto",
        answer=answer,
    )


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process now."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


class PeakMemory:
    """The largest ``anonymous_bytes`` seen while the block runs, looked at every 50 ms."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.bytes = max(self.bytes, anonymous_bytes())

    def __enter__(self) -> PeakMemory:
        self.bytes = anonymous_bytes()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.bytes = max(self.bytes, anonymous_bytes())


def write_dense(model: Path, out: Path, decode: Callable[[str], Tensor | None]) -> int:
    """How many tensors were replaced in the float32 copy of ``model`` that it writes to ``out``.

    ``decode`` maps a tensor's name in the checkpoint to the peer's values, or to None where the peer left the
    tensor alone: then the original is copied. File by file, so that at most one file's weights are in memory.
    """
    replaced = total_bytes = 0
    for path in sorted(model.glob("*.safetensors")):
        tensors: dict[str, Tensor] = {}
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping: it cannot be iterated)
                original = file.get_tensor(name)
                decoded = decode(name)
                if decoded is not None and decoded.shape != original.shape:
                    raise ValueError(f"{name}: decoded {decoded.shape}, the original has {original.shape}")
                replaced += decoded is not None
                tensors[name] = (original if decoded is None else decoded).to(torch.float32).contiguous()
        total_bytes += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, out / path.name, metadata={"format": "pt"})
    _copy_side_files(model, out, total_bytes)
    return replaced


def _copy_side_files(model: Path, out: Path, total_bytes: int) -> None:
    """Copy tokenizer and settings; the type and size of the weights become those of the dense copy."""
    for path in model.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "config.json":
            content["dtype"] = "float32"
            content.pop("torch_dtype", None)
        if path.name == WEIGHT_INDEX:
            content["metadata"]["total_size"] = total_bytes
        (out / path.name).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    for path in model.glob("tokenizer.model"):
        shutil.copyfile(path, out / path.name)
