"""An exporter translates a finished artifact into a folder that other software reads.

It sees the artifact alone, never the run and never the source's weights. ``check`` says no before any work is spent;
``write`` then fills a hidden folder, whose files move to their place only when all of them are whole. So what lies in
the output folder is a complete checkpoint or nothing, and a killed export is simply run again.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitwright.store.artifact import Artifact, Entry
from bitwright.store.files import settle
from bitwright.store.layout import open_layout
from bitwright.store.source import Source

DRAFT = ".bitwright-export"


class ExportError(ValueError):
    """This artifact cannot be written in this form, or not to this place; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written: files (relative to the output folder), their bytes together, and what the user should know."""

    files: tuple[str, ...]
    bytes: int
    notes: tuple[str, ...]


class Exporter(ABC):
    """One layout on disk."""

    __slots__ = ()

    @abstractmethod
    def check(self, layout: Source, entries: Sequence[Entry]) -> None:
        """Raises ExportError, naming the weight and a remedy, if this layout cannot hold these weights exactly.

        It needs no numbers, so a plan can ask it: `layout` may be the source itself.
        """

    @abstractmethod
    def write(self, artifact: Artifact, out: Path) -> tuple[str, ...]:
        """Write all files into the empty folder `out`; returns notes. Memory stays at a few blocks."""


def export(artifact: Artifact, to: Exporter, out: Path) -> ExportReport:
    """Write the artifact to the folder `out`, which must be absent or empty.

    Raises ExportError; SourceError for an artifact without a layout.
    """
    _check_place(out)
    to.check(open_layout(artifact.path / "source"), artifact.entries)
    draft = out / DRAFT
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        notes = to.write(artifact, draft)
        files = _publish(draft, out)
    except OSError as error:
        raise ExportError(
            f"{out}: {error.strerror or error}. Nothing usable was written: make room or give another folder, and run "
            f"the same command again"
        ) from error
    return ExportReport(files, sum((out / file).stat().st_size for file in files), notes)


def _check_place(out: Path) -> None:
    if out.is_symlink() and not out.exists():
        raise ExportError(f"{out} is a link to nothing: give a folder that does not exist yet, or an empty one")
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out} is a file: give a folder that does not exist yet, or an empty one")
    others = sorted(file.name for file in out.iterdir() if file.name != DRAFT) if out.exists() else []
    if others:
        raise ExportError(
            f"{out} is not empty (it holds {others[0]}{' and more' if others[1:] else ''}): an export never mixes with "
            f"other files; give a new folder, or empty this one"
        )


def _publish(draft: Path, out: Path) -> tuple[str, ...]:
    """Move finished files up; config.json last, since without it no software takes the folder for a checkpoint."""
    files = [file.relative_to(draft) for file in draft.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: (file.name == "config.json", file)):
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        settle(draft / file, out / file)
    shutil.rmtree(draft)
    return tuple(sorted(file.as_posix() for file in files))
