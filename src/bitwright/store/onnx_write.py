"""Writes an ONNX model, whole or not at all, one tensor at a time.

A model whose data are external stays so, and one that outgrows what a single ONNX file can hold (2 GiB) becomes so:
its tensors go to one file beside it, each at a page boundary so that engines can map it into memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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
    is_external,
    raw_bytes,
    read_external,
    take_in,
    tensor_bytes,
    type_of,
)

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
        for name, tensor in every_tensor(model):
            if is_external(tensor):
                take_in(tensor, read_external(name, tensor, folder))
        for name, tensor in constants_of(model).items():
            if name in constants:
                tensor.raw_data = raw_bytes(constants[name])
    write_bytes(path, model.SerializeToString())


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


def _write_beside(path: Path, model: ModelProto, constants: Mapping[str, Stored], folder: Path) -> None:
    """Move the data of all but small tensors to a file beside `path`, and say in the tensors where they are."""
    data = path.with_name(path.name + ".data")
    draft = data.with_name(data.name + ".part")
    with open(draft, "wb") as file:
        for name, tensor in every_tensor(model):  # those to be replaced hold no data yet
            if is_external(tensor):
                take_in(tensor, read_external(name, tensor, folder))
            _move_out(tensor, file, data.name)
        for name, tensor in constants_of(model).items():
            if name in constants:
                tensor.raw_data = raw_bytes(constants[name])
                _move_out(tensor, file, data.name)
        file.flush()
        os.fsync(file.fileno())
    settle(draft, data)


def _move_out(tensor: TensorProto, file: BinaryIO, location: str) -> None:
    """Append a tensor's data to a file and leave a reference to it, unless they are small."""
    if len(tensor.raw_data) <= SMALL:
        return
    file.write(b"\0" * (-file.tell() % PAGE))
    place = {"location": location, "offset": str(file.tell()), "length": str(len(tensor.raw_data))}
    file.write(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
