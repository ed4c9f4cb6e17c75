"""Tensors of an ONNX file as torch tensors and back, one at a time, without loading the others.

A tensor is either inside the file, in one of several fields, or in a file beside it (external data), named by a
relative path, an offset and a length. A model may come from anywhere, so the path must stay inside the model's folder
and the length must be that of the tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import onnx
import torch
from jaxtyping import Integer, Shaped
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from torch import Tensor

from bitwright.numerics.format import pack_bits
from bitwright.store.source_error import SourceError

MAPPED = 1 << 20  # bytes from which external data are mapped into memory, not read: they then belong to the page cache
SMALL = 1024  # bytes: a tensor up to this size is kept inside the file, where shape inference can read it
DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
}
TYPES: dict[torch.dtype, Any] = {dtype: kind for kind, dtype in DTYPES.items()}
NARROW = {
    (2, torch.int8): TensorProto.INT2,
    (2, torch.uint8): TensorProto.UINT2,
    (4, torch.int8): TensorProto.INT4,
    (4, torch.uint8): TensorProto.UINT4,
}
NARROW_BITS: dict[int, int] = {kind: bits for (bits, _), kind in NARROW.items()}


@final
@dataclass(frozen=True, slots=True, eq=False)
class Narrow:
    """Integers of 2 or 4 bits, which torch has no types for; int8 stands for signed ones, uint8 for the others."""

    codes: Integer[Tensor, "..."]
    bits: int

    @property
    def shape(self) -> torch.Size:
        """Of the integers, not of the bytes."""
        return self.codes.shape


Stored = Tensor | Narrow


def type_of(name: str, tensor: Stored) -> int:
    """The ONNX element type in which a tensor is stored; ValueError where there is none."""
    if isinstance(tensor, Narrow):
        found = NARROW.get((tensor.bits, tensor.codes.dtype))
    else:
        found = TYPES.get(tensor.dtype)
    if found is None:
        raise ValueError(f"{name}: {tensor} cannot be stored; cast it first")
    kind: int = found
    return kind


def read_tensor(name: str, tensor: TensorProto, folder: Path) -> Shaped[Tensor, "..."]:
    """The numbers of a stored tensor, free to be changed: copied, or mapped from the disk and copied page by page.

    Raises SourceError for a type that torch lacks, and for bad data.
    """
    if tensor.data_type not in DTYPES:
        kind = TensorProto.DataType.Name(tensor.data_type).lower()
        raise SourceError(f"{name}: stored as {kind}, which cannot be read as a tensor of numbers; float32 is wanted")
    dtype = DTYPES[tensor.data_type]
    shape = tuple(tensor.dims)
    if is_external(tensor):
        path, offset, length = external_place(name, tensor, folder)
        if length >= MAPPED and offset % dtype.itemsize == 0:
            return _from_bytes(np.memmap(path, np.uint8, "c", offset, (length,)), dtype, shape)
        return _from_bytes(read_external(name, tensor, folder), dtype, shape)
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != tensor_bytes(tensor):
            raise _wrong_size(name, tensor, len(tensor.raw_data))
        return _from_bytes(bytearray(tensor.raw_data), dtype, shape)
    try:
        array = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise SourceError(
            f"{name}: its data do not fit its shape {list(shape)} ({error}); the file is damaged"
        ) from error
    return _from_bytes(bytearray(np.ascontiguousarray(array).tobytes()), dtype, shape)


def every_tensor(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Every tensor that a model stores, at any depth: initializers, and attributes of nodes. Inner names may repeat."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def take_in(tensor: TensorProto, data: bytes | bytearray) -> None:
    """Put a tensor's data inside it."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = bytes(data)


def raw_bytes(tensor: Stored) -> bytes:
    """The numbers of a tensor as they stand in a file: little-endian, last axis fastest, lowest bits first."""
    if isinstance(tensor, Narrow):
        codes = tensor.codes.to(torch.uint8) & ((1 << tensor.bits) - 1)  # two's complement, cut off
        tensor = pack_bits(codes.reshape(-1), tensor.bits)
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def is_external(tensor: TensorProto) -> bool:
    """Whether a tensor's data are in a file beside the model."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def tensor_bytes(tensor: TensorProto) -> int:
    """The length of a tensor's data, from its type and shape."""
    count = 1
    for size in tensor.dims:
        count *= size
    if tensor.data_type in DTYPES:
        return count * DTYPES[tensor.data_type].itemsize
    bits = NARROW_BITS.get(tensor.data_type, 4)
    return -(-count * bits // 8)


def external_place(name: str, tensor: TensorProto, folder: Path) -> tuple[Path, int, int]:
    """File, offset and length of external data; SourceError unless they are there, inside the folder, and whole."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    path = folder / location
    if not location or not path.resolve().is_relative_to(folder.resolve()):
        raise SourceError(
            f"{name}: its external data are at {location!r}; only a relative path inside the model's folder is allowed"
        )
    if not path.is_file():
        raise SourceError(f"{name}: its external data are in {path}, which is missing; put the file beside the model")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", tensor_bytes(tensor)))
    except ValueError:
        raise SourceError(f"{name}: offset or length of its external data is not a number: {entries}") from None
    found = path.stat().st_size
    if offset < 0 or offset + length > found:
        raise SourceError(
            f"{name}: its external data are bytes {offset} to {offset + length} of {path}, which has {found}; "
            f"the file is cut short, fetch it again"
        )
    if tensor.data_type in DTYPES and length != tensor_bytes(tensor):
        raise _wrong_size(name, tensor, length)
    return path, offset, length


def read_external(name: str, tensor: TensorProto, folder: Path) -> bytearray:
    """The bytes of a tensor's external data."""
    path, offset, length = external_place(name, tensor, folder)
    data = bytearray(length)
    with open(path, "rb") as file:
        file.seek(offset)
        file.readinto(data)
    return data


def _wrong_size(name: str, tensor: TensorProto, found: int) -> SourceError:
    needed = f"its shape {list(tensor.dims)} takes {tensor_bytes(tensor)}"
    return SourceError(f"{name}: holds {found} bytes where {needed}; the file is damaged")


def _from_bytes(data: bytearray | NDArray[np.uint8], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(data, dtype=dtype).reshape(shape) if len(data) else torch.empty(shape, dtype=dtype)


def _graph_tensors(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[NodeProto]) -> Iterator[tuple[str, TensorProto]]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield (node.output[0], attribute.t)
            yield from ((node.output[0], tensor) for tensor in attribute.tensors)
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graph_tensors(graph)
