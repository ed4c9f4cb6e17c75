"""What a safetensors file holds, read from its header alone.

A safetensors file is: 8 bytes (little endian) that give the length of the header; the header, a JSON object that maps
each tensor's name to its dtype, shape and byte range; then the numbers, one tensor after the other without gaps.
The header therefore tells how long the file must be, so a truncated download is found without reading any weight.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeGuard

import torch

from bitwright.store.source_error import SourceError

HEADER_LIMIT_BYTES = 100_000_000  # the format's own limit; a larger length means that the first bytes are damaged
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


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor of a header: its shape, and where its numbers begin and end after the header, in bytes."""

    name: str
    tensor: TensorShape
    begin: int
    end: int


def read_header(file: Path) -> dict[str, TensorShape]:
    """Name -> shape and dtype of all tensors in ``file``. Raises SourceError if the file is damaged or too short."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > HEADER_LIMIT_BYTES:
            raise _damaged(file, f"it is {size} bytes long and gives {length} bytes as the length of its header")
        if 8 + length > size:
            raise _truncated(file, size, 8 + length)
        header = _parse(file, stream.read(length))
    entries = [_entry(file, name, value) for name, value in header.items() if name != "__metadata__"]
    _check_layout(file, entries, size - 8 - length)
    return {entry.name: entry.tensor for entry in entries}


def _parse(file: Path, text: bytes) -> dict[str, object]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(file, f"its header is a {type(header).__name__}, not an object of tensors")
    return header


def _entry(file: Path, name: str, value: object) -> _Entry:
    fields = value if isinstance(value, dict) else {}
    shape, offsets, dtype = fields.get("shape"), fields.get("data_offsets"), fields.get("dtype")
    if not (_is_counts(shape) and _is_counts(offsets) and len(offsets) == 2):
        raise _damaged(file, f"its header describes tensor {name!r} as {value!r}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        allowed = ", ".join(DTYPES)
        raise SourceError(f"{file}: tensor {name!r} has dtype {dtype!r}; allowed are {allowed}. Save it again.")
    return _Entry(name, TensorShape(tuple(shape), DTYPES[dtype]), offsets[0], offsets[1])


def _is_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _check_layout(file: Path, entries: list[_Entry], room: int) -> None:
    position = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position or entry.end - entry.begin != entry.tensor.bytes:
            found = f"tensor {entry.name!r} of {entry.tensor.bytes} bytes lies at {entry.begin} to {entry.end}"
            raise _damaged(file, f"{found}, where {position} to {position + entry.tensor.bytes} was expected")
        position = entry.end
    if position > room:
        raise _truncated(file, room, position)
    if position < room:
        raise _damaged(file, f"{room - position} bytes follow its last tensor")


def _truncated(file: Path, found: int, needed: int) -> SourceError:
    return SourceError(f"{file}: truncated, {found} bytes where its header needs {needed}. Download or copy it again.")


def _damaged(file: Path, what: str) -> SourceError:
    return SourceError(f"{file}: not a sound safetensors file: {what}. Download or copy it again.")
