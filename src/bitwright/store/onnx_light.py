"""Reads an ONNX file without the numbers of its large tensors, which are left where they are in the file.

ONNX lets a tensor say in which file, from which byte on, its numbers lie (external data). That file may be the model's
own: so the graph is small in memory however large the model is, every copy of it is, and engines map the numbers from
the disk instead of holding them. The file is walked field by field (`protobuf.py`), so that these numbers are never
read; nothing is changed on the disk.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from onnx import ModelProto, TensorProto, load_model

from bitwright.store.onnx_tensors import is_external
from bitwright.store.protobuf import GRAPH, INITIALIZER, RAW_DATA, fields, opening

LARGE = 1 << 20  # bytes of numbers that are left in the file


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
    for number, begin, inner, end in fields(data, start, stop):
        if number != way[0]:
            continue
        short = _shortened(data, inner, end, location, way[1:]) if way[1:] else _referring(data, inner, end, location)
        if short is not None:
            pieces += [data[since:begin], opening(number, len(short)), short]
            since = end
    return b"".join([*pieces, data[since:stop]]) if pieces else None


def _referring(data: mmap.mmap, start: int, stop: int, location: str) -> bytes | None:
    """A tensor that says where its numbers are; None for a small one."""
    for number, begin, inner, end in fields(data, start, stop):
        if number == RAW_DATA and end - inner >= LARGE:
            place = TensorProto(data_location=TensorProto.EXTERNAL)
            for key, value in (("location", location), ("offset", str(inner)), ("length", str(end - inner))):
                place.external_data.add(key=key, value=value)
            return b"".join([data[start:begin], data[end:stop], place.SerializeToString()])  # such parts are merged
    return None
