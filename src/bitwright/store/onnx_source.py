"""An ONNX file as a source of a network: its graph without its weights, and its weights one by one.

`OnnxSource.open` reads the graph and leaves large tensors where they are, so that a model of any size opens at once.
All that can be wrong with the file is found here. Opsets older than 13, which lack per-channel quantization, are
converted up, and local functions are put in the place of their calls; `notes` says so. Whatever is made of the model
is written by `write`, one tensor at a time: external data stay external.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto
from torch import Tensor

from bitwright.graph.network import Network, NetworkError
from bitwright.graph.onnx import constants_of, network_of
from bitwright.store.onnx_checks import (
    check_external,
    check_not_quantized,
    check_valid,
    complete_outputs,
    inline_functions,
    release_constants,
)
from bitwright.store.onnx_half import to_single
from bitwright.store.onnx_light import is_beside, load_light
from bitwright.store.onnx_opset import raise_opset
from bitwright.store.onnx_tensors import Stored, every_tensor, external_place, read_tensor
from bitwright.store.onnx_write import write_model
from bitwright.store.source_error import SourceError


@final
@dataclass(frozen=True, slots=True, eq=False)
class OnnxSource:
    """A float network in an ONNX file. `notes`: what was changed to make it readable.

    `made_from`: the digest of what the file was exported from, or empty where the file itself is the model.
    """

    path: Path
    notes: tuple[str, ...]
    _model: ModelProto
    _constants: Mapping[str, TensorProto]
    _network: Network
    made_from: str = ""

    @staticmethod
    def open(path: Path) -> OnnxSource:
        """The model at `path`; raises SourceError for all that is wrong with it, before any weight is read."""
        path = Path(path)
        model = read_model(path)
        try:
            check_not_quantized(model)
            check_external(model, path.parent)
            model, inlined = inline_functions(model)
            model, raised = raise_opset(model, path.parent)
            released = (*release_constants(model), *to_single(model))
            network = network_of(model)
            complete_outputs(model, network)
            check_valid(model)
        except (NetworkError, SourceError) as error:
            raise SourceError(f"{path}: {error}") from error
        return OnnxSource(path, (*inlined, *raised, *released), model, constants_of(model), network)

    @property
    def folder(self) -> Path:
        """Where external data are."""
        return self.path.parent

    @property
    def is_external(self) -> bool:
        """Whether the file keeps any tensor in a file beside it."""
        return any(is_beside(tensor, self.path) for _, tensor in every_tensor(self._model))

    def network(self) -> Network:
        """The graph as plain data."""
        return self._network

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The constants of these names, copied. Raises SourceError for an unknown name, and for NaN."""
        return {name: self._read(name) for name in names}

    def digest(self) -> str:
        """sha256 over the contents of the file and of its external data, independent of paths. Reads every byte.

        For a file that was exported from something else, such as a PyTorch module, it is the digest of that.
        """
        if self.made_from:
            return self.made_from
        total = hashlib.sha256()
        for path in self.files():
            with open(path, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    def files(self) -> tuple[Path, ...]:
        """The file, and those with its external data."""
        tensors = every_tensor(self._model)
        places = {external_place(name, held, self.folder)[0] for name, held in tensors if is_beside(held, self.path)}
        return (self.path, *sorted(places))

    @property
    def bytes(self) -> int:
        """Size on disk of all its files."""
        return sum(path.stat().st_size for path in self.files())

    def model(self) -> ModelProto:
        """A copy of all that the file says (names, metadata), to edit; external data are not loaded."""
        copy = ModelProto()
        copy.CopyFrom(self._model)
        return copy

    def write(self, path: Path, model: ModelProto, constants: Mapping[str, Stored] | None = None) -> None:
        """Write `model`, made from `model()`, with these constants in the place of its own.

        External data are written anew to `<name>.data` if this source keeps any, or if the file would be too large
        without. See `write_model`.
        """
        write_model(Path(path), model, constants or {}, self.path, self.is_external)

    def _read(self, name: str) -> Tensor:
        if name not in self._constants:
            raise SourceError(f"{self.path}: no constant {name!r}; network().constants lists those that can be read")
        tensor = read_tensor(name, self._constants[name], self.folder)
        if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            raise SourceError(f"{self.path}: {name} holds NaN; a network with NaN weights has no meaningful output")
        return tensor


def read_model(path: Path) -> ModelProto:
    """The model in an ONNX file, without external data and large tensors; SourceError if it is not one."""
    if not path.is_file():
        raise SourceError(f"{path}: no such file; give the path of an .onnx file")
    try:
        model = load_light(path)
    except (DecodeError, ValueError) as error:
        raise SourceError(f"{path}: not an ONNX file, or cut short ({error}); fetch or export it again") from error
    if not model.graph.node:
        raise SourceError(f"{path}: holds no operators; it is not an ONNX model or it is damaged")
    return model
