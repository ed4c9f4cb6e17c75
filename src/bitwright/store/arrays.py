"""Samples in numpy files: one .npz with an array for each input, one .npy, or a folder of either.

In a file alone, the first axis of every array counts the samples. In a folder, every file is one sample or one batch;
which of them, its number of axes says. Where the samples cannot share a batch, an array has one axis more than the
input, and each entry is a whole call. Pickled objects are never read.
"""

from __future__ import annotations

import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitwright.graph.network import Value
from bitwright.store.sample_set import (
    Feed,
    Samples,
    SamplesError,
    check_shape,
    describe,
    gather,
    only_input,
    stacking_of,
)

Array = NDArray[Any]
Pick = Callable[[int], Array]
NAMELESS = ""
DAMAGED = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def samples_from_array(path: Path, inputs: Sequence[Value], wanted: int | None) -> Samples:
    """The samples in one .npz or .npy file, whose first axis counts them. Raises SamplesError."""
    table = _Table(path, inputs, is_part=False)
    said = f"arrays as they are in {path.name}{table.left_out()}"
    return gather(inputs, table.count, wanted, said, lambda index: (f"{path}, sample {index}", table.read(index)))


def samples_from_arrays(paths: Sequence[Path], inputs: Sequence[Value], wanted: int | None) -> Samples:
    """The samples in many .npz and .npy files, each of which is one or a batch. Raises SamplesError."""
    folder = _Folder(paths, inputs)
    said = f"arrays as they are in {len(paths)} files{folder.left_out}"
    return gather(inputs, folder.count, wanted, said, folder.read)


@final
class _Folder:
    """Many files in a row; the one that was read last is kept."""

    def __init__(self, paths: Sequence[Path], inputs: Sequence[Value]) -> None:
        self._paths, self._inputs = paths, inputs
        tables = [(table.count, table.left_out()) for table in (_Table(path, inputs, is_part=True) for path in paths)]
        self._ends = list(accumulate(count for count, _ in tables))
        self.count = self._ends[-1]
        self.left_out = next((left for _, left in tables if left), "")
        self._held: tuple[int, _Table] | None = None

    def read(self, index: int) -> tuple[str, Feed]:
        number = bisect_right(self._ends, index)
        path = self._paths[number]
        if self._held is None or self._held[0] != number:
            self._held = number, _Table(path, self._inputs, is_part=True)
        table = self._held[1]
        within = index - (self._ends[number - 1] if number else 0)
        return (f"{path}, sample {within}" if table.count > 1 else str(path)), table.read(within)


@final
class _Table:
    """The arrays of one file, checked, and how a sample is picked from each."""

    def __init__(self, path: Path, inputs: Sequence[Value], is_part: bool) -> None:
        arrays = _load(path)
        if list(arrays) == [NAMELESS]:
            arrays = {only_input(inputs, "a .npy file").name: arrays[NAMELESS]}
        self._unused = sorted(arrays.keys() - {value.name for value in inputs})
        shares = stacking_of(inputs).shares
        self._picks: dict[str, Pick] = {}
        counts: dict[str, int] = {}
        for value in inputs:
            array = arrays.get(value.name)
            if array is None:
                raise SamplesError(
                    f"{path}: no array for the input {value.name} {describe(value.shape)} (found: "
                    f"{', '.join(sorted(arrays)) or 'none'}); add one of that name"
                )
            array = _lifted(value, array, shares) if is_part else array
            self._picks[value.name], count = _pick(path, value, array, shares)
            if count is not None:
                counts[value.name] = count
        self.count = _agreed(path, counts)

    def read(self, index: int) -> Feed:
        return {name: _tensor(pick(index)) for name, pick in self._picks.items()}

    def left_out(self) -> str:
        """In words, what the file holds that is no input."""
        return f"; not used: {', '.join(self._unused)}" if self._unused else ""


def example_in(path: Path, size: int = 2) -> tuple[Tensor] | dict[str, Tensor]:
    """The first samples of one .npz (by name) or .npy file (by place), to trace a module with. Raises SamplesError."""
    arrays = _load(path)
    if not arrays:
        raise SamplesError(f"{path}: holds no arrays; save one for each input of the module, under its name")
    first = {name: _tensor(array[:size] if array.ndim else array) for name, array in arrays.items()}
    for name, tensor in first.items():
        if not tensor.numel():
            raise SamplesError(f"{path}: the array {name} is empty; save at least one sample")
    return (first[NAMELESS],) if list(first) == [NAMELESS] else first


def _tensor(array: Array) -> Tensor:
    """A copy, in the byte order of this machine."""
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _load(path: Path) -> Mapping[str, Array]:
    """The arrays of a file by name; that of a .npy file has the empty name."""
    try:
        if path.suffix.lower() == ".npy":
            arrays = {NAMELESS: np.load(path, mmap_mode="r", allow_pickle=False)}
        else:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
    except DAMAGED as error:
        raise SamplesError(f"{path}: cannot be read as numpy arrays ({error}); save it again with numpy") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise SamplesError(f"{path}: {name} holds {array.dtype}, not numbers; save numbers")
    return arrays


def _lifted(value: Value, array: Array, shares: bool) -> Array:
    """An array from a folder with a first axis that counts samples, where it holds a single one."""
    rank = array.ndim if value.shape is None else len(value.shape)
    return array[None] if array.ndim == (rank - 1 if shares else rank) and rank else array


def _pick(path: Path, value: Value, array: Array, shares: bool) -> tuple[Pick, int | None]:
    """What picks a sample from an array, and how many it has; None for a scalar, which is the same for all."""
    rank = array.ndim if value.shape is None else len(value.shape)
    if array.ndim == 0 and rank == 0:
        return (lambda index: array), None
    takes_rows = shares or (value.shape is not None and bool(value.shape) and value.shape[0] in (None, 1))
    if array.ndim == rank and takes_rows:
        check_shape(str(path), value, array.shape, shares=True)
        return (lambda index: array[index : index + 1]), len(array)
    if array.ndim == rank + 1 and (not shares or rank == 0):
        if len(array):
            check_shape(str(path), value, array.shape[1:], shares=False)
        return (lambda index: array[index, ...]), len(array)
    allowed = value.shape or ()
    wanted = ("samples", *allowed[1:]) if takes_rows else ("samples", *allowed)
    sizes = ", ".join("any" if size is None else str(size) for size in wanted)
    raise SamplesError(
        f"{path}: the array {value.name} has shape {list(array.shape)}, but the network needs [{sizes}]; reshape it "
        f"and save it again"
    )


def _agreed(path: Path, counts: Mapping[str, int]) -> int:
    """The number of samples that all arrays of a file have."""
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise SamplesError(f"{path}: the arrays hold different numbers of samples ({said}); give as many of each")
    count = next(iter(counts.values()), 1)
    if count == 0:
        raise SamplesError(f"{path}: holds no samples, the first axis of its arrays is 0; save at least one")
    return count
