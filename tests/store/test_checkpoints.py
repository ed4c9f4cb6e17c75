"""What a run has stored is not made again; what is damaged, or built on something else, is."""

from __future__ import annotations

from pathlib import Path

import torch

from bitwright.store.checkpoints import NUMBER, TENSORS, Checkpoints, forget


class Counted:
    """Makes a number, and counts how often it is asked."""

    def __init__(self, number: float) -> None:
        self.number, self.asked = number, 0

    def __call__(self) -> float:
        self.asked += 1
        return self.number


def run(folder: Path, key: str, numbers: list[Counted]) -> tuple[list[float], list[str]]:
    """The results of a run, and what it told."""
    told: list[str] = []
    checkpoints = Checkpoints(folder, key, told.append)
    return [checkpoints.once(f"n{place}", one, NUMBER) for place, one in enumerate(numbers)], told


def numbers(*values: float) -> list[Counted]:
    return [Counted(value) for value in values]


def test_the_same_run_goes_on_where_it_was(tmp_path: Path) -> None:
    first, second = numbers(0.1, 1 / 3), numbers(5.0, 6.0, 7.0)
    assert run(tmp_path, "key", first) == ([0.1, 1 / 3], [])
    found, told = run(tmp_path, "key", second)
    assert found == [0.1, 1 / 3, 7.0] and [one.asked for one in second] == [0, 0, 1]
    assert told == ["an earlier run left 2 results behind: going on from there"]


def test_another_run_believes_nothing(tmp_path: Path) -> None:
    run(tmp_path, "key", numbers(1.0, 2.0))
    assert run(tmp_path, "other", numbers(3.0, 4.0))[0] == [3.0, 4.0]


def test_a_damaged_result_is_made_again_alone(tmp_path: Path) -> None:
    run(tmp_path, "key", numbers(1.0, 2.0, 3.0))
    note = tmp_path / "00001.json"
    note.write_text(note.read_text().replace("2.0", "9.0"))
    again = numbers(1.0, 2.0, 3.0)
    found, told = run(tmp_path, "key", again)
    assert found == [1.0, 2.0, 3.0] and [one.asked for one in again] == [0, 1, 0]
    assert told[1:] == ["n1: the digest of 00001 differs; it is computed again"]


def test_what_was_built_on_another_result_is_made_again(tmp_path: Path) -> None:
    run(tmp_path, "key", numbers(1.0, 2.0, 3.0))
    (tmp_path / "00001.safetensors").unlink()
    again = numbers(1.0, 2.5, 3.5)
    assert run(tmp_path, "key", again)[0] == [1.0, 2.5, 3.5]
    assert [one.asked for one in again] == [0, 1, 1]


def test_tensors_come_back_bit_by_bit_and_contiguous(tmp_path: Path) -> None:
    given = {"a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).mT, "b/c": torch.tensor(2.0)}
    for _ in range(2):
        found = Checkpoints(tmp_path, "key").once("both", lambda: given, TENSORS)
        assert found.keys() == given.keys()
        assert all(torch.equal(found[name], one) and found[name].is_contiguous() for name, one in given.items())


def test_what_is_forgotten_is_gone(tmp_path: Path) -> None:
    run(tmp_path / "kept", "key", numbers(1.0))
    forget(tmp_path / "kept")
    forget(tmp_path / "never made")
    assert not list(tmp_path.iterdir())
