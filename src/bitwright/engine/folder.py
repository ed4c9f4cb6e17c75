"""The folder of a run: whose it is, and what is said where the run cannot go on in it.

Language models and whole networks alike: a note with a digest of all that makes the run claims the folder, and where it
holds anything worth keeping another run is refused. What is in a claimed folder beside the run's own files (a page, a
script) is left alone.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitwright.store.files import read_json, write_json
from bitwright.version import __version__

CLAIM = "plan.json"
CHECKPOINTS = "checkpoints"  # of a network, until its run is finished
TUNING = "tuning"  # of an artifact, until it is tuned
_WORTH = ("manifest.json", "blocks/*.json", f"{CHECKPOINTS}/*.json", f"{TUNING}/*.json")


class RunError(ValueError):
    """The run cannot go on; what was finished is kept. The message says what to do."""


def claim(folder: Path, digest: str, before: Collection[str] = ()) -> None:
    """Make a folder the run's that has this digest, or refuse it; `before`: what may be in it beforehand."""
    note = folder / CLAIM
    if note.is_file():
        if _digest(note) != digest and any(any(folder.glob(pattern)) for pattern in _WORTH):
            raise RunError(
                f"{folder} holds a different run (another model, recipe, calibration data or version): "
                "give another output folder, or delete this one"
            )
    elif folder.exists() and any(path.name not in (f"{CLAIM}.part", *before) for path in folder.iterdir()):
        raise RunError(f"{folder} is not empty and no run of this tool: give another output folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(note, {"digest": digest, "version": __version__})


def _digest(note: Path) -> Any:
    try:
        return read_json(note)["digest"]
    except (ValueError, LookupError, TypeError) as error:
        raise RunError(f"{note} is damaged: give another output folder, or delete {note.parent}") from error


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Within it, a full disk, any other OSError and a lack of memory are raised as a RunError that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            raise RunError(
                "there is not enough memory (`bitwright plan` prints how much is needed). What is finished is kept: "
                "end other programs, or move to a larger machine, and run the same command again"
            ) from error
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RunError(
                f"the disk of {folder} is full. What is finished is kept: make room (`bitwright plan` prints how much "
                "is needed) and run the same command again"
            ) from error
        what = f"{error.filename or folder}: {error.strerror or error}"
        raise RunError(f"{what}. What is finished is kept: run the same command again") from error
