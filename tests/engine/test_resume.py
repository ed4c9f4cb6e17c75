"""A stopped run of a whole network goes on where it was: nothing is found twice, and no byte comes out different."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bitwright.engine.folder import RunError
from bitwright.engine.progress import Step
from bitwright.store import checkpoints, pieces
from engine.tiny import clone, contents
from engine.tiny_network import model, run


class Counted:
    """Stores pieces, and stops the run when it is asked for one more than `room`."""

    def __init__(self, room: float = float("inf"), error: BaseException | None = None) -> None:
        self.room, self.error, self.calls = room, error or KeyboardInterrupt(), 0

    def __call__(self, *args: object) -> None:
        if self.calls == self.room:
            raise self.error
        self.calls += 1
        write: Callable[..., None] = pieces.write_piece
        write(*args)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def whole(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The folder of a run that nothing disturbed, and how many results it stored."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "write_piece", counted := Counted())
        run(file, out)
    return out, counted.calls


@pytest.fixture(scope="module")
def halted(file: Path, whole: tuple[Path, int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped before its last result."""
    out = tmp_path_factory.mktemp("halted") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "write_piece", Counted(whole[1] - 1))
        with pytest.raises(KeyboardInterrupt):
            run(file, out)
    return out


@pytest.fixture
def stopped(halted: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may go on with."""
    return clone(halted, tmp_path / "out")


def test_a_finished_run_leaves_no_checkpoints(whole: tuple[Path, int]) -> None:
    assert {path.name for path in whole[0].iterdir()} == {
        "manifest.json",
        "plan.json",
        "float.onnx",
        "weights.safetensors",
    }
    # the trials of the float network and of the edits, the range pass, the ranges, relief, 4 weights, the segments
    assert whole[1] >= 12


def test_a_stopped_run_goes_on_where_it_was(
    file: Path, whole: tuple[Path, int], stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not (stopped / "manifest.json").exists()
    steps: list[Step] = []
    monkeypatch.setattr(checkpoints, "write_piece", counted := Counted())
    run(file, stopped, steps.append)
    assert counted.calls == 1
    assert steps[0].note == f"an earlier run left {whole[1] - 1} results behind: going on from there"
    assert contents(stopped) == contents(whole[0])


def test_damaged_checkpoints_are_made_again_and_said(file: Path, whole: tuple[Path, int], stopped: Path) -> None:
    for place in range(0, whole[1] - 1, 3):
        archive = stopped / "checkpoints" / f"{place:05d}.safetensors"
        archive.write_bytes(archive.read_bytes()[:-1])
    steps: list[Step] = []
    run(file, stopped, steps.append)
    told = [step.note for step in steps if "digest" in step.note]
    assert len(told) == len(range(0, whole[1] - 1, 3))
    assert contents(stopped) == contents(whole[0])


def test_a_stop_between_the_manifest_and_the_end_leaves_nothing_behind(
    file: Path, whole: tuple[Path, int], stopped: Path
) -> None:
    out = stopped.with_name("finished")
    clone(whole[0], out)
    clone(stopped / "checkpoints", out / "checkpoints")
    run(file, out)
    assert contents(out) == contents(whole[0])


def test_a_full_disk_is_explained_and_what_is_finished_is_kept(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(checkpoints, "write_piece", Counted(3, full))
    with pytest.raises(RunError, match="is full. What is finished is kept: make room .* run the same command again"):
        run(file, tmp_path / "out")
    assert len(list(tmp_path.glob("out/checkpoints/*.json"))) == 3


@pytest.mark.slow
def test_a_stop_before_any_result_changes_no_byte(
    file: Path, whole: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One folder, stopped before every result in turn: each attempt adds just one."""
    out = tmp_path / "out"
    for place in range(whole[1]):
        monkeypatch.setattr(checkpoints, "write_piece", Counted(1 if place else 0))
        with pytest.raises(KeyboardInterrupt):
            run(file, out)
        assert len(list(out.glob("checkpoints/*.json"))) == place
    monkeypatch.setattr(checkpoints, "write_piece", counted := Counted())
    run(file, out)
    assert counted.calls == 1
    assert contents(out) == contents(whole[0])
