"""Reads an ONNX file without the numbers of its large tensors, which are left where they are in the file.

ONNX lets a tensor say in which file, from which byte on, its numbers lie (external data). That file may be the model's
own: so the graph is small in memory however large the model is, every copy of it is, and engines map the numbers from
the disk instead of holding them. The file's bytes are walked field by field as protobuf encodes them: a key (number and
kind of the field), then a number, or a length and so many bytes. Nothing is changed on the disk.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from onnx import ModelProto, TensorProto, load_model

from bitwright.store.onnx_tensors import is_external

LARGE = 1 << 20  # bytes of numbers that are left in the file
GRAPH, INITIALIZER = 7, 5  # numbers of the fields that lead from a model to its tensors
RAW_DATA = 9  # of a tensor's numbers in it
_BYTES = 2  # the kind of a field with bytes; others are numbers (0), or have 8 bytes (1) or 4 (5)
_MOST_BYTES = 10  # of a number


def load_light(path: Path) -> ModelProto:
    """The model in the file at `path`; external data are not loaded, nor are large initializers that lie in it.

    Raises what onnx raises for a file that holds no model.
    """
    if path.stat().st_size > LARGE and not path.is_symlink():  # engines refuse data behind a link
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            short = _shortened(data, 0, len(data), path.name, (GRAPH, INITIALIZER))
        if short is not None:
            made: ModelProto = ModelProto.FromString(short)
            return made
    whole: ModelProto = load_model(path, load_external_data=False)
    return whole


def is_beside(tensor: TensorProto, path: Path) -> bool:
    """Whether a tensor's numbers are in another file than the model's own, which is at `path`."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    return is_external(tensor) and location != path.name


def _shortened(data: mmap.mmap, start: int, stop: int, location: str, way: tuple[int, ...]) -> bytes | None:
    """A message without the numbers of the large tensors that the fields `way` lead to.

    None where there are none, and where it is no such message: that is for the library to say.
    """
    pieces, since = [], start
    for number, begin, inner, end in _fields(data, start, stop):
        if number != way[0]:
            continue
        short = _shortened(data, inner, end, location, way[1:]) if way[1:] else _referring(data, inner, end, location)
        if short is not None:
            pieces += [data[since:begin], _encoded(number << 3 | _BYTES), _encoded(len(short)), short]
            since = end
    return b"".join([*pieces, data[since:stop]]) if pieces else None


def _referring(data: mmap.mmap, start: int, stop: int, location: str) -> bytes | None:
    """A tensor that says where its numbers are; None for a small one."""
    for number, begin, inner, end in _fields(data, start, stop):
        if number == RAW_DATA and end - inner >= LARGE:
            place = TensorProto(data_location=TensorProto.EXTERNAL)
            for key, value in (("location", location), ("offset", str(inner)), ("length", str(end - inner))):
                place.external_data.add(key=key, value=value)
            return b"".join([data[start:begin], data[end:stop], place.SerializeToString()])  # such parts are merged
    return None


def _fields(data: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Every field with bytes: its number, and where it, its bytes and the next field begin; up to what is damaged."""
    at = start
    while at < stop:
        begin = at
        key, inner = _decoded(data, at, stop)
        value, after = _decoded(data, inner, stop)
        ends = {0: after, 1: inner + 8, _BYTES: after + value, 5: inner + 4}
        at = ends.get(key & 7, stop + 1)
        if at > stop:
            return
        if key & 7 == _BYTES:
            yield key >> 3, begin, after, at


def _decoded(data: mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    """A number, seven bits to a byte, and where it ends; beyond `stop` if it does not."""
    value = 0
    for place in range(_MOST_BYTES):
        if at + place >= stop:
            break
        byte = data[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    return value, stop + 1


def _encoded(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])
