"""Checkpoints: what a long run has found so far, so that the same run after a kill does not find it again.

A run asks for its results one after the other, always in the same order: `once(name, make, form)`. A result that lies
in the folder is read; any other is made, stored, and read back, so that a run goes on from the same numbers whether it
was stopped or not. The key of a result is a digest of the run and of all results before it: where one turns out
differently, nothing that was built on it is believed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, final

from torch import Tensor

from bitwright.store.files import text_digest
from bitwright.store.pieces import read_piece, write_piece

T = TypeVar("T")
Parts = tuple[Any, Mapping[str, Tensor]]  # plain data, and tensors by name


@final
@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """How a result is taken apart into plain data and tensors, and put together again."""

    apart: Callable[[T], Parts]
    together: Callable[[Any, Mapping[str, Tensor]], T]


NUMBER: Form[float] = Form(lambda number: (number, {}), lambda data, _: float(data))
TENSORS: Form[Mapping[str, Tensor]] = Form(lambda tensors: (None, tensors), lambda _, tensors: tensors)


@final
class Checkpoints:
    """The results of one run, in `folder`; `key` says what the run is made of. `tell` hears what a user should know."""

    def __init__(self, folder: Path, key: str, tell: Callable[[str], None] = lambda text: None) -> None:
        self._folder, self._key, self._tell = folder, key, tell
        self._count = 0
        found = len(list(folder.glob("*.json")))
        if found:
            tell(f"an earlier run left {found} results behind: going on from there")

    def once(self, name: str, make: Callable[[], T], form: Form[T]) -> T:
        """The next result: as it was stored, or else made now. `name`: what a message calls it."""
        file, key = self._folder / f"{self._count:05d}.safetensors", text_digest([self._key, name])
        piece = read_piece(file, key, lambda why: self._tell(f"{name}: {why}; it is computed again"))
        if piece is None:
            data, arrays = form.apart(make())
            write_piece(file, key, arrays, data)
            piece = read_piece(file, key)
            assert piece is not None
        self._count += 1
        self._key = text_digest([key, *piece.digests])
        return form.together(piece.report, piece.arrays())


def forget(folder: Path) -> None:
    """Remove the checkpoints in a folder, if there are any: what they were made for is finished."""
    shutil.rmtree(folder, ignore_errors=True)
