"""Runs a command and writes what it took: seconds, processor seconds of all threads, and the peak of its memory.

python benchmarks/peers/measured.py NOTE.json COMMAND...

A process of its own, because a child's peak begins with that of the process that starts it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    note, command = Path(sys.argv[1]), sys.argv[2:]
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    child.returncode = code
    if code == 0:
        found = {"seconds": time.perf_counter() - started, "cpu_seconds": used.ru_utime + used.ru_stime}
        note.write_text(json.dumps(found | {"peak_bytes": used.ru_maxrss * 1024}))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
