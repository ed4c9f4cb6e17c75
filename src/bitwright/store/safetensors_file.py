"""A safetensors file: what its header says, and single tensors of it.

A safetensors file is: 8 bytes (little endian) that give the length of the header; the header, a JSON object that maps
each tensor's name to its dtype, shape and byte range; then the numbers, one tensor after the other without gaps.
The header therefore tells how long the file must be, so a truncated download is found without reading any weight.
Tensors are mapped, not read: pages come from disk when the numbers are touched, and a changed number stays in memory.
Only the stretches of the file that are wanted are mapped. Mapping the whole file, as the safetensors library does,
fails on Linux for a file larger than the machine's memory.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from bitwright.store.source_error import SourceError

HEADER_LIMIT_BYTES = 100_000_000  # the format's own limit; a larger length means that the first bytes are damaged
# tensors at most this far apart share a mapping, since each mapping costs an open file
LARGEST_GAP_BYTES = 1 << 24
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


@dataclass(frozen=True, slots=True)
class TensorShape:
    """Shape and dtype of a tensor that has not been read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize


Range = tuple[str, TensorShape, int, int]  # name, shape, begin and end in bytes after the header


@dataclass(frozen=True, slots=True)
class Stretch:
    """One tensor of a file: its shape, and where its numbers begin, in bytes from the beginning of the file."""

    name: str
    tensor: TensorShape
    begin: int

    @property
    def end(self) -> int:
        return self.begin + self.tensor.bytes


def read_header(file: Path) -> dict[str, Stretch]:
    """Name -> place and shape of all tensors in ``file``. Raises SourceError if the file is damaged or too short."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > HEADER_LIMIT_BYTES:
            raise _damaged(file, f"it is {size} bytes long and gives {length} bytes as the length of its header")
        if 8 + length > size:
            raise _truncated(file, size, 8 + length)
        header = _parse(file, stream.read(length))
    ranges = sorted((_range(file, name, value) for name, value in header.items() if name != "__metadata__"), key=_order)
    start = position = 8 + length
    stretches: dict[str, Stretch] = {}
    for name, tensor, begin, end in ranges:
        stretch = stretches[name] = Stretch(name, tensor, position)
        if (start + begin, start + end) != (stretch.begin, stretch.end):
            wanted = f"{stretch.begin - start} to {stretch.end - start}"
            raise _damaged(file, f"{name!r} of {tensor.bytes} bytes lies at {begin} to {end}, not at {wanted}")
        position = stretch.end
    if position > size:
        raise _truncated(file, size, position)
    if position < size:
        raise _damaged(file, f"{size - position} bytes follow its last tensor")
    return stretches


def map_tensors(file: Path, wanted: Sequence[Stretch]) -> dict[str, Tensor]:
    """The tensors at ``wanted``, mapped. Raises SourceError if the file is no longer what its header said."""
    tensors: dict[str, Tensor] = {}
    try:
        with file.open("rb") as stream:
            for run in _runs(wanted):
                begin = run[0].begin - run[0].begin % mmap.ALLOCATIONGRANULARITY
                length = run[-1].end - begin
                content = mmap.mmap(stream.fileno(), length, offset=begin, access=mmap.ACCESS_COPY) if length else b""
                tensors |= {stretch.name: _view(content, stretch, begin) for stretch in run}
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{file}: cannot be mapped into memory ({error}). Did it change since it was opened, or is more read at "
            f"once than there is memory?"
        ) from error
    return tensors


def _runs(wanted: Sequence[Stretch]) -> Iterator[list[Stretch]]:
    """``wanted`` in the order of the file, cut where the gap to the next one is large."""
    run: list[Stretch] = []
    for stretch in sorted(wanted, key=lambda stretch: (stretch.begin, stretch.end)):
        if run and stretch.begin - run[-1].end > LARGEST_GAP_BYTES:
            yield run
            run = []
        run.append(stretch)
    if run:
        yield run


def _view(content: mmap.mmap | bytes, stretch: Stretch, begin: int) -> Tensor:
    """The tensor at ``stretch`` in ``content``, which begins ``begin`` bytes into the file."""
    shape, dtype = stretch.tensor.shape, stretch.tensor.dtype
    if not stretch.tensor.elements:
        return torch.empty(shape, dtype=dtype)
    offset = stretch.begin - begin
    if offset % dtype.itemsize:  # a header of odd length; torch needs numbers aligned
        return torch.frombuffer(bytearray(content[offset : offset + stretch.tensor.bytes]), dtype=dtype).reshape(shape)
    return torch.frombuffer(content, dtype=dtype, count=stretch.tensor.elements, offset=offset).reshape(shape)


def _parse(file: Path, text: bytes) -> dict[str, object]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(file, f"its header is a {type(header).__name__}, not an object of tensors")
    return header


def _order(found: Range) -> tuple[int, int]:
    return found[2:]


def _range(file: Path, name: str, value: object) -> Range:
    fields = value if isinstance(value, dict) else {}
    shape, offsets, dtype = fields.get("shape"), fields.get("data_offsets"), fields.get("dtype")
    if not (_is_counts(shape) and _is_counts(offsets) and len(offsets) == 2):
        raise _damaged(file, f"its header describes tensor {name!r} as {value!r}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        allowed = ", ".join(DTYPES)
        raise SourceError(f"{file}: tensor {name!r} has dtype {dtype!r}; allowed are {allowed}. Save it again.")
    return name, TensorShape(tuple(shape), DTYPES[dtype]), offsets[0], offsets[1]


def _is_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _truncated(file: Path, found: int, needed: int) -> SourceError:
    return SourceError(f"{file}: truncated, {found} bytes where its header needs {needed}. Download or copy it again.")


def _damaged(file: Path, what: str) -> SourceError:
    return SourceError(f"{file}: not a sound safetensors file: {what}. Download or copy it again.")
