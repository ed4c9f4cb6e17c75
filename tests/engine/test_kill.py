"""A run that is killed or interrupted, at whatever moment, ends with the same bytes when the command is repeated."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import tiny_network
from engine.attempts import INTERRUPTED, Attempt, Server
from engine.tiny import contents, model

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of four blocks."""
    return model(tmp_path_factory.mktemp("models") / "deep", "deep")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose run has every phase."""
    return tiny_network.model(tmp_path_factory.mktemp("models"))


def undisturbed(server: Server, source: Path, folder: Path) -> tuple[Path, float]:
    """The folder of a run that nothing disturbed, and the seconds that it took."""
    server.run(Attempt(str(source), str(folder / "warm"), step=1))
    return folder / "out", server.seconds(Attempt(str(source), str(folder / "out")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, server: Server, deep: Path) -> tuple[Path, float]:
    return undisturbed(server, deep, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def whole_network(tmp_path_factory: pytest.TempPathFactory, server: Server, network: Path) -> tuple[Path, float]:
    return undisturbed(server, network, tmp_path_factory.mktemp("whole"))


ENDS = {signal.SIGKILL: KILLED, signal.SIGINT: INTERRUPTED}


@pytest.mark.parametrize(
    ("number", "times"),
    [(signal.SIGKILL, 6), (signal.SIGINT, 2), pytest.param(signal.SIGKILL, 20, marks=pytest.mark.slow)],
)
def test_signals_at_random_moments_change_no_byte(
    number: int, times: int, server: Server, deep: Path, whole: tuple[Path, float], tmp_path: Path
) -> None:
    hit_at_random(server, (number, times), deep, whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 20), (signal.SIGINT, 4)])
def test_signals_at_random_moments_change_no_byte_of_a_network(
    number: int, times: int, server: Server, network: Path, whole_network: tuple[Path, float], tmp_path: Path
) -> None:
    hit_at_random(server, (number, times), network, whole_network, tmp_path)


def hit_at_random(server: Server, hits: tuple[int, int], source: Path, whole: tuple[Path, float], folder: Path) -> None:
    """Run into a folder until so many runs were hit by the signal, then finish it; a finished one begins another."""
    number, times = hits
    draw = random.Random(times)
    done = folders = 0
    while done < times:
        assert folders < 3 * times, "the runs end before the signals reach them"
        out = folder / str(folders)
        moment = draw.uniform(0, 0.7 * whole[1])
        code = server.run(Attempt(str(source), str(out), seconds=moment, number=number))
        done += code == ENDS[number]
        if code == 0:
            assert contents(out) == contents(whole[0])
            folders += 1
        else:
            assert code == ENDS[number]
    assert server.run(Attempt(str(source), str(out))) == 0
    assert contents(out) == contents(whole[0])


def steps_to_try(total: int, count: int) -> Iterator[int]:
    """One random step on disk in each of `count` stretches of the run; the first and the last step too."""
    draw = random.Random(count)
    yield from (1, total)
    for number in range(count):
        yield draw.randint(1 + number * total // count, (number + 1) * total // count)


@pytest.mark.parametrize("count", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_a_kill_between_any_two_steps_on_disk_changes_no_byte(
    count: int, server: Server, deep: Path, whole: tuple[Path, float], tmp_path: Path
) -> None:
    kill_at_steps(server, count, deep, whole[0], tmp_path)


@pytest.mark.slow
def test_a_kill_between_any_two_steps_on_disk_changes_no_byte_of_a_network(
    server: Server, network: Path, whole_network: tuple[Path, float], tmp_path: Path
) -> None:
    kill_at_steps(server, 25, network, whole_network[0], tmp_path)


def kill_at_steps(server: Server, count: int, source: Path, whole: Path, folder: Path) -> None:
    """Kill runs before steps on disk from all of the run, each in a folder of its own, and finish them."""
    total = server.steps(whole)
    for step in sorted(set(steps_to_try(total, min(count, total)))):
        out = folder / str(step)
        assert server.run(Attempt(str(source), str(out), step=step)) == KILLED
        assert server.run(Attempt(str(source), str(out))) == 0
        assert contents(out) == contents(whole), f"killed before step {step} of {total}"


def test_an_interrupted_run_goes_on_where_it_was(
    server: Server, deep: Path, whole: tuple[Path, float], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    step = server.steps(whole[0]) // 2
    assert server.run(Attempt(str(deep), str(out), step=step, number=signal.SIGINT)) == INTERRUPTED
    assert (out / "blocks" / "00000.json").is_file()
    assert not (out / "manifest.json").exists()
    assert server.run(Attempt(str(deep), str(out))) == 0
    assert contents(out) == contents(whole[0])
