"""How much memory this process has of its own, now and at most, and what machine it runs on.

Anonymous memory is what counts: mapped weight files and streams belong to the page cache, which gives way when others
need room. The system keeps no record of its peak, so a thread looks fifty times a second.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import final

import torch

_STATUS = Path("/proc/self/status")
_PAUSE_SECONDS = 0.02


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)
_KEPT = 32 << 20


def keep_freed_memory() -> None:
    """Let the C library reuse freed tensors of up to 32 MiB instead of handing them back to the system each time.

    Fresh pages cost more than what is computed in them: elementwise operators on activations take a third of the time.
    Larger tensors are still given back at once, or what lies free between others would count as memory in use. Does
    nothing where the C library has no such setting.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_MMAP_THRESHOLD, _KEPT)
    mallopt(_TRIM_THRESHOLD, 2 * _KEPT)


def resident() -> int:
    """Anonymous memory of this process in bytes (peak resident memory where the system does not tell)."""
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@final
class PeakMemory:
    """Watches memory within a `with` block; `bytes` is the most that was seen."""

    def __init__(self) -> None:
        self.bytes = resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_PAUSE_SECONDS):
            self.bytes = max(self.bytes, resident())


def host() -> dict[str, str | int]:
    """The machine, for run.json."""
    return {
        "name": platform.node(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }
