"""Pieces of a run as they lie on disk: tensors in one file, and the note that makes them count in another.

A stored piece is believed only if its key is the one that is computed now, and its digests are those of the file and
of the report in the note. The note is written last, so a kill at any moment leaves a whole piece or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from safetensors import safe_open
from torch import Tensor

from bitwright.store.files import file_digest, read_json, text_digest, write_json, write_tensors

Damaged = Callable[[str], None]  # is told what is wrong with a piece of the right key


@final
@dataclass(frozen=True, slots=True)
class Piece:
    """What a piece says, where its tensors are, and the digests of both (file, report)."""

    report: Any
    file: Path
    digests: tuple[str, str]

    def arrays(self) -> dict[str, Tensor]:
        """All its tensors."""
        return read_arrays(self.file)


def write_piece(file: Path, key: str, arrays: Mapping[str, Tensor], report: Any) -> None:
    """Store tensors in `file`, then the note beside it; the report is plain data, numbers that are NaN allowed."""
    write_tensors(file, arrays)
    digests = [file_digest(file), text_digest(report)]
    write_json(note_of(file), {"key": key, "digests": digests, "report": report}, allow_nan=True)


def read_piece(file: Path, key: str, damaged: Damaged = lambda why: None) -> Piece | None:
    """The piece in `file` if it has this key and is intact, else None; `damaged` hears of one that is not intact."""
    if not note_of(file).is_file():
        return None
    try:
        return _checked(file, key)
    except _DamagedError as error:
        damaged(str(error))
        return None


class _DamagedError(Exception):
    """A piece cannot be believed; says why."""


def _checked(file: Path, key: str) -> Piece | None:
    """The piece; None for one of another key."""
    note = note_of(file)
    try:
        data = read_json(note)
    except ValueError as error:
        raise _DamagedError(f"{note.name} cannot be read") from error
    if not isinstance(data, dict) or data.get("key") != key:
        return None
    if not file.is_file():
        raise _DamagedError(f"{file.name} is missing")
    report = data.get("report")
    digests = file_digest(file), text_digest(report)
    if data.get("digests") != list(digests):
        raise _DamagedError(f"the digest of {file.stem} differs")
    return Piece(report, file, digests)


def note_of(file: Path) -> Path:
    """Where the note of a piece is."""
    return file.with_suffix(".json")


def read_arrays(file: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a file whose names begin so, under what follows."""
    with safe_open(file, framework="pt") as archive:
        names = [name for name in archive.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name[len(prefix) :]: archive.get_tensor(name) for name in names}
