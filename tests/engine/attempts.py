"""Runs that are killed. As a program it is a server: it imports everything once and then forks a process per attempt.

One line of JSON in, one line out: the exit code of the attempt (negative: the signal that ended it). An attempt is hit
by its signal after some seconds, or at its n-th step on disk: just before it opens, renames, removes or makes something
in the output folder, which are the moments between two states that a restart must tell apart.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "shutil.rmtree", "shutil.copyfile"}
INTERRUPTED = 130


@dataclass(frozen=True)
class Attempt:
    """Quantize `model` into `out`; hit by signal `number` after `seconds` or at a step on disk, or left alone."""

    model: str
    out: str
    seconds: float | None = None
    step: int | None = None
    number: int = signal.SIGKILL


class Server:
    """The test's end of the pipe."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}/tests", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, attempt: Attempt) -> int:
        """The exit code, after the attempt has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(attempt)) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def steps(self, out: Path) -> int:
        """How many steps on disk the attempt took that ended by itself."""
        return int(Path(f"{out}.steps").read_text())

    def seconds(self, attempt: Attempt) -> float:
        """How long an attempt takes that is left alone."""
        start = time.monotonic()
        assert self.run(attempt) == 0
        return time.monotonic() - start

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve() -> None:
    """Read attempts until the pipe closes."""
    import torch

    import engine.tiny
    import engine.tiny_network
    from bitwright.store.source import open_source

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs deaf to it
    for line in sys.stdin:
        attempt = Attempt(**json.loads(line))
        is_network = attempt.model.endswith(".onnx")
        if not is_network:
            open_source(Path(attempt.model)).skeleton()  # imports the model's module, once for all attempts
        child = os.fork()
        if child == 0:
            try:
                code = _attempt(attempt, engine.tiny_network.run if is_network else engine.tiny.run)
            except KeyboardInterrupt:  # between the fork and the run
                code = INTERRUPTED
            os._exit(code)
        watched = select.poll()
        watched.register(os.pidfd_open(child), select.POLLIN)
        if not watched.poll(None if attempt.seconds is None else attempt.seconds * 1000):
            os.kill(child, attempt.number)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _attempt(attempt: Attempt, run: Any) -> int:
    taken = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal taken
        if event in STEPS and any(isinstance(arg, (str, Path)) and str(arg).startswith(attempt.out) for arg in args):
            taken += 1
            if taken == attempt.step:
                os.kill(os.getpid(), attempt.number)

    sys.addaudithook(hook)
    try:
        run(Path(attempt.model), Path(attempt.out))
    except KeyboardInterrupt:
        return INTERRUPTED
    Path(f"{attempt.out}.steps").write_text(str(taken))
    return 0


if __name__ == "__main__":
    serve()
