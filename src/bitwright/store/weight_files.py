"""The weight files of a Hugging Face folder: which there are, what they hold, and how to read single tensors.

A folder has either one file (model.safetensors) or shards listed by an index (model.safetensors.index.json, whose
weight_map gives the shard of each tensor). All shards are checked by their headers before any weight is read. Tensors
from safetensors are memory-mapped: pages come from disk when the numbers are touched. Older folders hold pickles
(pytorch_model.bin). Unpickling is riskier than reading numbers, so these are refused unless the caller allows them;
then torch's restricted unpickler reads them, also memory-mapped.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch
from torch import Tensor

from bitwright.store.safetensors_file import Stretch, TensorShape, map_tensors, read_header
from bitwright.store.source_error import SourceError

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files of one checkpoint; names here are the checkpoint's own, before any rename."""

    files: tuple[Path, ...]
    tensors: Mapping[str, TensorShape]
    homes: Mapping[str, Path]
    stretches: Mapping[str, Stretch]  # empty for pickles

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.bytes for tensor in self.tensors.values())

    def load(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors called ``names``, memory-mapped. Opens only the files that hold them."""
        self._check_present()
        wanted: dict[Path, list[str]] = defaultdict(list)
        for name in names:
            wanted[self.homes[name]].append(name)
        loaded: dict[str, Tensor] = {}
        for file, inside in wanted.items():
            if file.suffix == ".safetensors":
                loaded |= map_tensors(file, [self.stretches[name] for name in inside])
            else:
                content = _load_pickle(file)
                loaded |= {name: content[name] for name in inside}
        return loaded

    def digest(self, start: bytes) -> str:
        """sha256 over ``start`` and the contents of the files, whatever the folder is called. Reads every byte."""
        self._check_present()
        digest = hashlib.sha256(f"{len(start)}:".encode() + start)
        for file in self.files:
            digest.update(f"{file.stat().st_size}:".encode())
            with file.open("rb") as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    digest.update(chunk)
        return digest.hexdigest()

    def _check_present(self) -> None:
        if not self.files:
            place = next(iter(self.homes.values()), "this layout")
            raise SourceError(
                f"{place}: only names and shapes of the weights are kept here, not the weights. Read the artifact, or "
                f"open the source model's own folder."
            )


def find_weight_files(folder: Path, allow_pickle: bool = False, name: str = SAFETENSORS) -> WeightFiles:
    """The weight files in ``folder``, their headers checked. Raises SourceError if one is missing or damaged.

    ``name``: what a single file of safetensors is called, and with an ending the index of many.
    """
    index, files = _choose(folder, allow_pickle, name)
    tensors: dict[str, TensorShape] = {}
    stretches: dict[str, Stretch] = {}
    homes: dict[str, Path] = {}
    for file in files:
        if file.suffix == ".safetensors":
            header = read_header(file)
            stretches |= header
            inside = {name: stretch.tensor for name, stretch in header.items()}
        else:
            inside = {name: TensorShape(tuple(t.shape), t.dtype) for name, t in _load_pickle(file).items()}
        tensors |= inside
        homes |= dict.fromkeys(inside, file)
    for name, file in index.items():
        if name not in tensors:
            raise SourceError(f"{file}: tensor {name!r} is not in it, although the index says so. Download both again.")
    return WeightFiles(files, tensors, homes, stretches)


def _choose(folder: Path, allow_pickle: bool, name: str) -> tuple[dict[str, Path], tuple[Path, ...]]:
    """What the index says (empty without an index) and the files to read, in the order in which the loader does."""
    for single in (name, PICKLE):
        index_file = folder / f"{single}.index.json"
        if single == PICKLE and not allow_pickle and (index_file.is_file() or (folder / single).is_file()):
            raise SourceError(
                f"{folder}: holds only pickled weights ({PICKLE}); {name} is needed, because a pickle from a "
                f"stranger can run code. Convert it, or pass allow_pickle=True if you trust where it came from."
            )
        if (folder / single).is_file():
            return {}, (folder / single,)
        if index_file.is_file():
            index = _read_index(index_file)
            return index, tuple(sorted(set(index.values())))
    raise SourceError(f"{folder}: no weights found; {name} or {name}.index.json is needed.")


def _read_index(index_file: Path) -> dict[str, Path]:
    try:
        index = json.loads(index_file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{index_file}: not JSON ({error}). Download it again.") from error
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names:
        raise SourceError(f"{index_file}: no weight_map that maps tensors to files. Download it again.")
    shards = {shard: _shard(index_file, shard) for shard in set(map(str, names.values()))}
    return {name: shards[str(shard)] for name, shard in names.items()}


def _shard(index_file: Path, shard: str) -> Path:
    """The file called ``shard``; links are followed, since the hub's own cache is made of links."""
    parts = (*PurePosixPath(shard).parts, *PureWindowsPath(shard).parts)
    if ".." in parts or PurePosixPath(shard).is_absolute() or PureWindowsPath(shard).anchor:
        raise SourceError(
            f"{index_file}: weight_map names {shard!r}, which lies outside the folder; only files inside are allowed. "
            f"Do not use this checkpoint unless you know why."
        )
    if PurePosixPath(shard).suffix not in (".safetensors", ".bin"):
        raise SourceError(f"{index_file}: weight_map names {shard!r}; weight files end in .safetensors or .bin.")
    if PurePosixPath(shard).suffix == ".bin" and ".safetensors" in index_file.name:
        raise SourceError(f"{index_file}: weight_map names {shard!r}, a pickle; only safetensors are allowed here.")
    if not (index_file.parent / shard).is_file():
        raise SourceError(f"{index_file}: weight_map names {shard!r}, which is missing. Download the folder again.")
    return index_file.parent / shard


def _load_pickle(file: Path) -> dict[str, Tensor]:
    try:
        # torch's older pickles are no zip archives and cannot be mapped
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise SourceError(f"{file}: not plain pickled tensors ({error}). Convert it to safetensors.") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SourceError(f"{file}: holds more than a flat list of tensors. Save model.state_dict() to safetensors.")
    return content
