"""One run in a folder at a time, and none after its process is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bitwright.store.lock import BusyError, only_run

HOLD = """
import sys, time
from pathlib import Path
from bitwright.store.lock import only_run
with only_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    with only_run(tmp_path), pytest.raises(BusyError, match="another run is at work here"), only_run(tmp_path):
        pass
    with only_run(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_process_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(BusyError), only_run(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with only_run(tmp_path):
        pass
