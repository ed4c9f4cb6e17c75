"""The pair of streams between two blocks, believed only where its note says that both are whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.engine.streams import Boundary
from engine.tiny import flip


@pytest.fixture
def sealed(tmp_path: Path) -> Boundary:
    """The boundary before block 1, with numbers in both files."""
    boundary = Boundary(tmp_path / "streams", 1, (4, 3, 2), torch.float32)
    for seed, file in enumerate((boundary.pair.original, boundary.pair.quantized)):
        file.create()
        file.write(0, torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(seed)))
    boundary.seal("key")
    return boundary


def test_what_was_sealed_is_believed_under_its_key_alone(sealed: Boundary) -> None:
    assert sealed.is_sealed("key")
    assert not sealed.is_sealed("another")
    assert not sealed.at(2).is_sealed("key")


def test_files_without_a_note_are_not_believed(sealed: Boundary) -> None:
    (sealed.folder / "00001.json").unlink()
    assert not sealed.is_sealed("key")


@pytest.mark.parametrize("name", ["00001.original", "00001.quantized", "00001.json"])
@pytest.mark.parametrize("place", [0, 17, -1])
def test_one_changed_bit_is_noticed(name: str, place: int, sealed: Boundary) -> None:
    flip(sealed.folder / name, place, 128)
    assert not sealed.is_sealed("key")


def test_streams_of_another_shape_or_type_are_not_believed(sealed: Boundary) -> None:
    assert not Boundary(sealed.folder, 1, (5, 3, 2), torch.float32).is_sealed("key")
    assert not Boundary(sealed.folder, 1, (4, 3, 2), torch.bfloat16).is_sealed("key")


def test_before_the_first_block_both_streams_are_one_file(sealed: Boundary) -> None:
    first = sealed.at(0).pair
    assert first.original == first.quantized
    assert sealed.pair.original != sealed.pair.quantized


def test_a_pair_that_is_done_with_becomes_the_room_of_the_one_after_next(sealed: Boundary) -> None:
    (sealed.folder / "00002.original").write_bytes(b"")
    inodes = [file.path.stat().st_ino for file in (sealed.pair.original, sealed.pair.quantized)]
    sealed.hand_down()
    heir = sealed.at(3)
    assert {file.name for file in sealed.folder.iterdir()} == {"00002.original", "00003.original", "00003.quantized"}
    for file in (heir.pair.original, heir.pair.quantized):
        file.create()
    assert [file.path.stat().st_ino for file in (heir.pair.original, heir.pair.quantized)] == inodes
    assert not heir.is_sealed("key")


def test_the_one_file_before_the_first_block_is_handed_down_alone(sealed: Boundary) -> None:
    first = sealed.at(0)
    first.pair.original.path.write_bytes(b"first")
    first.hand_down()
    assert (sealed.folder / "00002.original").read_bytes() == b"first"
    assert not (sealed.folder / "00002.quantized").exists() and not first.pair.original.path.exists()


def test_all_streams_are_removed(sealed: Boundary) -> None:
    sealed.delete_all()
    sealed.delete_all()
    assert not sealed.folder.exists()


def test_all_others_are_removed(sealed: Boundary) -> None:
    (sealed.folder / "tape.0.in").write_bytes(b"")
    (sealed.folder / "00000.original").write_bytes(b"")
    sealed.delete_others()
    assert sealed.is_sealed("key") and len(list(sealed.folder.iterdir())) == 3


def test_a_pair_takes_the_bytes_that_it_says(sealed: Boundary) -> None:
    files = sealed.pair.original.path, sealed.pair.quantized.path
    assert sealed.bytes == sum(file.stat().st_size for file in files)
