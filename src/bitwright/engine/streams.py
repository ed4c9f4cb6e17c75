"""The pair of streams at a block boundary, and the note that says that both are whole."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bitwright.engine.collect import Pair
from bitwright.execute import StreamFile
from bitwright.store.files import file_digest, read_json, write_json


@dataclass(frozen=True, slots=True)
class Boundary:
    """The streams before block `index`. Before the first block both are the same file."""

    folder: Path
    index: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def pair(self) -> Pair:
        """Both stream files."""
        original = StreamFile(self.folder / f"{self.index:05d}.original", self.shape, self.dtype)
        if self.index == 0:
            return Pair(original, original)
        return Pair(original, StreamFile(self.folder / f"{self.index:05d}.quantized", self.shape, self.dtype))

    @property
    def bytes(self) -> int:
        """Disk space of this pair."""
        return 2 * self.pair.original.bytes

    def at(self, index: int) -> Boundary:
        """The boundary before another block."""
        return replace(self, index=index)

    def seal(self, key: str) -> None:
        """Note that both files are whole; `key` is that of the block that made them."""
        write_json(self._note, {"key": key, "digests": self._digests()})

    def is_sealed(self, key: str) -> bool:
        """Whether both files are here, made by the block of this key, and intact."""
        if not (self._note.is_file() and self.pair.original.is_whole() and self.pair.quantized.is_whole()):
            return False
        try:
            note = read_json(self._note)
        except ValueError:
            return False
        return bool(note == {"key": key, "digests": self._digests()})

    def hand_down(self) -> None:
        """Give both files up, to be written over by the pair after next: the system finds no new room then."""
        self._note.unlink(missing_ok=True)
        heir = self.at(self.index + 2).pair
        os.replace(self.pair.original.path, heir.original.path)
        if self.index > 0:
            os.replace(self.pair.quantized.path, heir.quantized.path)

    def delete_others(self) -> None:
        """Remove what a run that was killed left behind beside this pair."""
        for path in self.folder.iterdir():
            if not path.name.startswith(f"{self.index:05d}."):
                path.unlink()

    def delete_all(self) -> None:
        """Remove the folder of streams."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _note(self) -> Path:
        return self.folder / f"{self.index:05d}.json"

    def _digests(self) -> list[str]:
        return [file_digest(self.pair.original.path), file_digest(self.pair.quantized.path)]
