"""Writes an ONNX model, whole or not at all, one tensor at a time.

A model whose data are external stays so, and one that outgrows what a single ONNX file can hold (2 GiB) becomes so:
its tensors go to one file beside it, each at a page boundary so that engines can map it into memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from onnx import AttributeProto, ModelProto, TensorProto

from bitwright.graph.onnx import constants_of, is_constant
from bitwright.store.files import settle, write_bytes
from bitwright.store.onnx_light import is_beside
from bitwright.store.onnx_tensors import (
    SMALL,
    Stored,
    every_tensor,
    external_place,
    is_external,
    raw_bytes,
    read_external,
    take_in,
    tensor_bytes,
    type_of,
)
from bitwright.store.protobuf import GRAPH, INITIALIZER, RAW_DATA, opening

LARGEST_FILE = 1 << 31  # bytes; protobuf cannot hold more
ROOM_FOR_GRAPH = 1 << 27
PAGE = 4096


def write_model(
    path: Path, model: ModelProto, constants: Mapping[str, Stored], source: Path, beside: bool = False
) -> None:
    """Write `model` with `constants` in the place of its stored tensors of these names; `model` itself is changed.

    `source` is the file that the model was read from, where its external data are, too. `beside`: data go beside the
    file even if none of the model's own that are left lie there. Raises ValueError for a name that the model does not
    store, and OSError where the disk is full.
    """
    unknown = sorted(constants.keys() - constants_of(model).keys())
    if unknown:
        raise ValueError(f"{unknown[0]}: the model stores no tensor of this name, so it cannot be replaced")
    folder = source.parent
    was_beside = any(is_beside(tensor, source) for _, tensor in every_tensor(model))
    declare(model, constants)
    total = sum(tensor_bytes(tensor) for _, tensor in every_tensor(model))
    path.parent.mkdir(parents=True, exist_ok=True)
    if beside or was_beside or total > LARGEST_FILE - ROOM_FOR_GRAPH:
        _write_beside(path, model, constants, folder)
    else:
        _write_inside(path, model, constants, folder)


def declare(model: ModelProto, constants: Mapping[str, Stored]) -> None:
    """Give the stored tensors of these names the type and shape of what will replace them, and take their data away."""
    for node in model.graph.node:
        if is_constant(node) and node.output[0] in constants and node.attribute[0].name != "value":
            del node.attribute[:]
            node.attribute.add(name="value", type=AttributeProto.TENSOR)
    stored = constants_of(model)
    for name, tensor in constants.items():
        own = stored[name]
        own.CopyFrom(TensorProto(name=own.name, data_type=type_of(name, tensor), dims=list(tensor.shape)))


def _write_inside(path: Path, model: ModelProto, constants: Mapping[str, Stored], folder: Path) -> None:
    """Write one file with everything in it; its last part is the initializers, whose numbers are read as they go."""
    graph = model.graph
    for name, tensor in list(every_tensor(model))[len(graph.initializer) :]:
        if is_external(tensor):
            take_in(tensor, read_external(name, tensor, folder))
    own = {tensor.name for tensor in graph.initializer}
    for name, tensor in constants_of(model).items():
        if name in constants and name not in own:
            tensor.raw_data = raw_bytes(constants[name])
    parts: list[tuple[bytes, Callable[[], bytes | bytearray]]] = []
    size = 0
    for tensor in graph.initializer:
        length, read = _numbers(tensor, constants, folder)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        head = tensor.SerializeToString() + (opening(RAW_DATA, length) if length else b"")
        head = opening(INITIALIZER, len(head) + length) + head
        parts.append((head, read))
        size += len(head) + length
    del graph.initializer[:]
    rest = graph.SerializeToString()
    model.ClearField("graph")
    draft = path.with_name(path.name + ".part")
    with open(draft, "wb") as file:
        file.write(model.SerializeToString() + opening(GRAPH, len(rest) + size) + rest)
        for head, read in parts:
            file.write(head)
            file.write(read())
        file.flush()
        os.fsync(file.fileno())
    settle(draft, path)


def _numbers(
    tensor: TensorProto, constants: Mapping[str, Stored], folder: Path
) -> tuple[int, Callable[[], bytes | bytearray]]:
    """How many bytes an initializer lacks, and how to read them, whatever becomes of the tensor until then."""
    name = tensor.name
    if name in constants:
        return tensor_bytes(tensor), lambda: raw_bytes(constants[name])
    if not is_external(tensor):
        return 0, bytes
    asked = TensorProto()
    asked.CopyFrom(tensor)
    return external_place(name, tensor, folder)[2], lambda: read_external(name, asked, folder)


def _write_beside(path: Path, model: ModelProto, constants: Mapping[str, Stored], folder: Path) -> None:
    """Move the data of all but small tensors to a file beside `path`, and say in the tensors where they are."""
    data = path.with_name(path.name + ".data")
    draft = data.with_name(data.name + ".part")
    with open(draft, "wb") as file:
        for name, tensor in every_tensor(model):  # those to be replaced hold no data yet
            held = read_external(name, tensor, folder) if is_external(tensor) else tensor.raw_data
            _move_out(tensor, held, file, data.name)
        for name, tensor in constants_of(model).items():
            if name in constants:
                _move_out(tensor, raw_bytes(constants[name]), file, data.name)
        file.flush()
        os.fsync(file.fileno())
    settle(draft, data)
    write_bytes(path, model.SerializeToString())


def _move_out(tensor: TensorProto, data: bytes | bytearray, file: BinaryIO, location: str) -> None:
    """Append a tensor's data to a file and leave a reference to it; small ones are put into the tensor."""
    if len(data) <= SMALL:
        if data:
            take_in(tensor, data)
        return
    file.write(b"\0" * (-file.tell() % PAGE))
    place = {"location": location, "offset": str(file.tell()), "length": str(len(data))}
    file.write(data)
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
