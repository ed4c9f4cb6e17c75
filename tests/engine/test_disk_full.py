"""A full disk ends a run with a message that says what to do; with more room the same command finishes it."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitwright.quantize import RunError
from engine.tiny import contents, run

MESSAGE = "^the disk of .* is full. What is finished is kept: make room .* and run the same command again$"


class Disk:
    """Lets so many calls through and answers all later ones with ENOSPC."""

    def __init__(self, function: Callable[..., object], room: float) -> None:
        self.function, self.room, self.calls = function, room, 0

    def __call__(self, *args: object) -> object:
        self.calls += 1
        if self.calls > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.function(*args)


@pytest.mark.parametrize("count", [4, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("function", ["posix_fallocate", "fsync"])
def test_a_disk_that_fills_up_at_any_moment_is_explained_and_the_run_resumes(
    function: str, count: int, dense: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., object] = vars(os)[function]
    monkeypatch.setattr(os, function, counter := Disk(real, float("inf")))
    run(dense, tmp_path / "counted")
    draw = random.Random(count)
    for room in sorted(draw.sample(range(counter.calls), min(count, counter.calls))):
        out = tmp_path / str(room)
        monkeypatch.setattr(os, function, Disk(real, room))
        with pytest.raises(RunError, match=MESSAGE):
            run(dense, out)
        monkeypatch.setattr(os, function, real)
        run(dense, out)
        assert contents(out) == contents(finished), f"full at call {room} of {function}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 16 KiB; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here; that takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_real_disk_that_grows_with_every_attempt_ends_with_the_same_bytes(
    small_disk: Path, dense: Path, finished: Path
) -> None:
    kilobytes, failures, stored = 16, 0, []
    while not (small_disk / "out" / "manifest.json").exists():
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(small_disk)], check=True)
        try:
            run(dense, small_disk / "out")
        except RunError as error:
            failures += 1
            assert "is full. What is finished is kept" in str(error)
        stored.append(len(list(small_disk.glob("out/blocks/*.json"))))
        kilobytes = int(kilobytes * 1.15) + 1
    assert failures > 10
    assert stored == sorted(stored)
    assert contents(small_disk / "out") == contents(finished)


def test_another_failure_of_the_disk_names_the_file(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/the/file")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match="^/the/file: Input/output error. What is finished is kept: run the same"):
        run(dense, tmp_path / "out")
