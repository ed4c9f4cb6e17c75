"""What a run believes of what it finds in its folder, and which folders it refuses. (Kills: `test_kill.py`.)"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from bitwright.quantize import RunError, quantize
from bitwright.recipe.presets import asymmetric
from bitwright.recipe.recipe import Recipe, Rule
from engine.tiny import RECIPE, clone, contents, flip, model, run, stop_after, token_rows

DAMAGE = [
    ("blocks/00000.safetensors", -1),
    ("blocks/00001.safetensors", 3),
    ("blocks/00001.safetensors", -200),
    ("blocks/00001.json", 30),
    ("blocks/00001.json", -300),
    ("blocks/00002.json", 0),
    ("outside.safetensors", -1),
    ("outside.json", -300),
    ("outside.json", 0),
    ("manifest.json", 100),
    ("source/layout.json", 5),
]


@pytest.mark.parametrize(("file", "place"), DAMAGE)
def test_a_damaged_file_is_not_believed_and_made_again(
    file: str, place: int, dense: Path, finished: Path, tmp_path: Path
) -> None:
    out = clone(finished, tmp_path / "out")
    flip(out / file, place, 128 if place == 0 else 1)
    run(dense, out)
    assert contents(out) == contents(finished)


@pytest.mark.parametrize(
    "file", ["blocks/00000.safetensors", "blocks/00002.json", "outside.json", "source/config.json"]
)
def test_a_missing_file_is_made_again(file: str, dense: Path, finished: Path, tmp_path: Path) -> None:
    out = clone(finished, tmp_path / "out")
    (out / file).unlink()
    run(dense, out)
    assert contents(out) == contents(finished)


def test_a_finished_run_is_not_computed_again(dense: Path, finished: Path, tmp_path: Path) -> None:
    out = clone(finished, tmp_path / "out")
    seconds = []
    quantize(dense, RECIPE, out, token_rows(), on_block=lambda done: seconds.append(done.seconds))
    assert seconds == [0.0] * 3
    assert contents(out) == contents(finished)


@pytest.fixture(scope="module")
def half(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was given up after two blocks of three."""
    out = tmp_path_factory.mktemp("half") / "out"
    stop_after(dense, out, 2)
    return out


def truncate(file: Path) -> None:
    """Halve a file."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


STREAMS = {
    "whole": lambda folder: None,
    "original damaged": lambda folder: flip(folder / "00002.original", 70),
    "quantized damaged": lambda folder: flip(folder / "00002.quantized", -1),
    "note damaged": lambda folder: flip(folder / "00002.json", 0, 128),
    "note of another key": lambda folder: flip(folder / "00002.json", -10),
    "truncated": lambda folder: truncate(folder / "00002.original"),
    "note missing": lambda folder: (folder / "00002.json").unlink(),
    "stream missing": lambda folder: (folder / "00002.quantized").unlink(),
    "all missing": shutil.rmtree,
}


@pytest.mark.parametrize("damage", STREAMS)
def test_damaged_streams_are_run_anew(damage: str, dense: Path, half: Path, finished: Path, tmp_path: Path) -> None:
    out = clone(half, tmp_path / "out")
    STREAMS[damage](out / "streams")
    run(dense, out)
    assert contents(out) == contents(finished)


@pytest.mark.parametrize(
    ("config", "dtype", "compute"),
    [
        ("routed", torch.float32, torch.float32),
        ("transposed", torch.float32, torch.float32),
        ("told", torch.float32, torch.float32),
        ("told", torch.bfloat16, torch.float32),
        ("shared", torch.float32, torch.float32),
        ("dense", torch.bfloat16, torch.bfloat16),
        ("dense", torch.bfloat16, torch.float32),
        ("dense", torch.float16, torch.float32),
        ("dense", torch.float32, torch.bfloat16),
    ],
)
def test_streams_through_stored_blocks_are_those_of_the_run(
    config: str, dtype: torch.dtype, compute: torch.dtype, tmp_path: Path
) -> None:
    source = model(tmp_path / "model", config, dtype)
    run(source, tmp_path / "whole", compute=compute)
    stop_after(source, tmp_path / "out", 1, compute)
    shutil.rmtree(tmp_path / "out" / "streams")
    run(source, tmp_path / "out", compute=compute)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("config", ["told", "shared"])
def test_what_blocks_read_beside_the_stream_is_there_when_a_run_goes_on(config: str, tmp_path: Path) -> None:
    source = model(tmp_path / "model", config)
    run(source, tmp_path / "whole")
    stop_after(source, tmp_path / "out", {"told": 1, "shared": 3}[config])
    run(source, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_a_killed_run_left_beside_the_streams_is_removed(dense: Path, half: Path, tmp_path: Path) -> None:
    out = clone(half, tmp_path / "out")
    (out / "streams" / "00001.original").write_bytes(b"left behind")
    (out / "streams" / "tape.3.in").write_bytes(b"left behind")
    seen = []
    quantize(dense, RECIPE, out, token_rows(), on_block=lambda _: seen.append(sorted((out / "streams").iterdir())))
    names = {file.name for file in seen[-1]}
    handed_down = {"00004.original", "00004.quantized"}  # those before the last block
    sealed = {"00003.json", "00003.original", "00003.quantized"}
    assert {name for name in names if name[0].isdigit()} == sealed | handed_down
    assert all(name.startswith(("tape.", "aside", "0")) for name in names)
    assert not (out / "streams").exists()


def test_a_run_of_another_recipe_is_refused(dense: Path, finished: Path) -> None:
    with pytest.raises(RunError, match="holds a different run .*: give another output folder, or delete this one"):
        run(dense, finished, Recipe((Rule("*", asymmetric(4, 16)),)))


def test_a_run_of_another_table_outside_the_blocks_is_refused(dense: Path, finished: Path) -> None:
    with pytest.raises(RunError, match="different run"):
        run(dense, finished, Recipe(RECIPE.rules[:1]))


@pytest.mark.parametrize(("count", "length", "seed"), [(20, 16, 1), (18, 16, 0), (20, 15, 0)])
def test_a_run_of_other_rows_is_refused(count: int, length: int, seed: int, dense: Path, finished: Path) -> None:
    with pytest.raises(RunError, match="different run"):
        quantize(dense, RECIPE, finished, token_rows(count, length, seed))


def test_a_run_of_another_model_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="different run"):
        run(model(tmp_path / "other", "deep"), finished)


def test_a_run_of_the_same_model_with_one_number_changed_is_refused(
    dense: Path, finished: Path, tmp_path: Path
) -> None:
    other = clone(dense, tmp_path / "other")
    flip(other / "model.safetensors", -1, 64)
    with pytest.raises(RunError, match="different run"):
        run(other, finished)


def test_a_run_in_another_precision_is_refused(dense: Path, finished: Path) -> None:
    with pytest.raises(RunError, match="different run"):
        run(dense, finished, compute=torch.bfloat16)


def test_a_folder_with_other_things_in_it_is_refused_and_left_as_it_is(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(RunError, match="is not empty and no run of this tool: give another output folder"):
        run(dense, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_is_taken(dense: Path, finished: Path, tmp_path: Path) -> None:
    run(dense, tmp_path)
    assert contents(tmp_path) == contents(finished)


def test_a_file_in_the_place_of_the_folder_is_refused(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ValueError, match="out: a file, not a folder; give another output folder"):
        run(dense, tmp_path / "out")


def test_a_damaged_note_of_the_plan_is_explained(dense: Path, finished: Path, tmp_path: Path) -> None:
    out = clone(finished, tmp_path / "out")
    flip(out / "plan.json", 0, 128)
    with pytest.raises(RunError, match=r"plan\.json is damaged: give another output folder, or delete"):
        run(dense, out)


def test_of_several_blocks_only_the_damaged_one_is_computed_again(dense: Path, finished: Path, tmp_path: Path) -> None:
    out = clone(finished, tmp_path / "out")
    flip(next((out / "blocks").glob("00001*.safetensors")), -1)
    (out / "manifest.json").unlink()
    seconds: list[float] = []
    quantize(dense, RECIPE, out, token_rows(), on_block=lambda done: seconds.append(done.seconds))
    assert [second > 0 for second in seconds] == [i == 1 for i in range(len(seconds))] and len(seconds) > 2
    assert contents(out) == contents(finished)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate")]
)
def test_a_lack_of_memory_is_explained(
    error: Exception, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("bitwright.engine.run.quantize_block", fail)
    with pytest.raises(RunError, match=r"not enough memory .*What is finished is kept"):
        quantize(dense, RECIPE, tmp_path / "out", token_rows())
