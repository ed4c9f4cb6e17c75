"""What quantization leaves on disk: one folder that exporters, evaluation and the report only read.

    manifest.json            the plan as text, one entry per weight, everything kept and why, digests, versions
    blocks/00000.safetensors quantized tensors and kept parameters of one block (00000.json: its key, digest, report)
    outside.safetensors      what lies outside the blocks (embeddings, norms, head)
    source/                  configuration and tokenizer of the source, and the names and shapes of its tensors
    run.json, scores.json    times and hosts; scores. Neither is part of the result.

A block is a piece (`pieces.py`): it is believed only if its key and its digests are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from bitwright import numerics
from bitwright.numerics import QTensor, Spec
from bitwright.numerics.plain import from_plain
from bitwright.store.files import file_digest, read_json
from bitwright.store.pieces import read_arrays, read_piece, write_piece
from bitwright.store.tensors import flatten, gather

FORMAT = 1
_SPECS = {name: vars(numerics)[name] for name in numerics.__all__ if isinstance(vars(numerics)[name], type)}


class ArtifactError(ValueError):
    """The folder is not a whole artifact; the message says what is missing and what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One quantized weight: the parameter it is a view of, its shape [out, in], and its spec."""

    name: str
    parameter: str
    index: int | None
    transposed: bool
    shape: tuple[int, int]
    spec: Spec
    block: int | None

    @staticmethod
    def of(data: Mapping[str, Any]) -> Entry:
        """From an entry of the manifest or of a block's report."""
        spec = from_plain(data["stored"], Spec, _SPECS, data["name"])
        rows, cols = data["shape"]
        return Entry(
            data["name"],
            data["parameter"],
            data.get("index"),
            bool(data["transposed"]),
            (rows, cols),
            spec,
            data["block"],
        )


@final
@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """A finished artifact. Nothing is read before it is asked for."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All quantized weights."""
        return tuple(Entry.of(weight) for weight in self.manifest["weights"])

    @property
    def dtype(self) -> torch.dtype:
        """The float type of the source."""
        found = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
        return found[self.manifest["source"]["dtype"]]

    def parts(self) -> Iterator[tuple[int | None, Path]]:
        """The weight files: those of the blocks in order, then (None) what lies outside them."""
        for index in range(len(self.manifest["blocks"])):
            yield index, block_file(self.path, index)
        yield None, self.path / "outside.safetensors"

    def qtensors(self, block: int | None) -> dict[str, QTensor]:
        """The quantized tensors of one file, by weight name."""
        entries = [entry for entry in self.entries if entry.block == block]
        arrays = read_arrays(self._file(block), "q.")
        return {entry.name: gather(entry.name, entry.spec, entry.shape, arrays) for entry in entries}

    def kept(self, block: int | None) -> dict[str, Tensor]:
        """The parameters of one file that were kept as they were."""
        return read_arrays(self._file(block), "k.")

    def parameters(self, block: int | None, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Every parameter of one file, quantized ones dequantized, in the source's float type or the one given."""
        entries = [entry for entry in self.entries if entry.block == block]
        qtensors = self.qtensors(block)
        matrices = {entry.name: qtensors[entry.name].dequantize().to(dtype or self.dtype) for entry in entries}
        return self.kept(block) | assembled(entries, matrices)

    @property
    def bytes(self) -> int:
        """Size on disk of everything a reader needs: weights, manifest, configuration and tokenizer."""
        files = [path for _, path in self.parts()] + [self.path / "manifest.json"]
        files += [path for path in (self.path / "source").rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files)

    def _file(self, block: int | None) -> Path:
        return self.path / "outside.safetensors" if block is None else block_file(self.path, block)


def assembled(entries: Sequence[Entry], matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by name from the matrices that are views of them; differentiable in the matrices."""
    found: dict[str, Tensor] = {}
    slices: dict[str, dict[int, Tensor]] = {}
    for entry in entries:
        matrix = matrices[entry.name]
        matrix = matrix.mT.contiguous() if entry.transposed else matrix
        if entry.index is None:
            found[entry.parameter] = matrix
        else:
            slices.setdefault(entry.parameter, {})[entry.index] = matrix
    return found | {name: torch.stack([parts[i] for i in range(len(parts))]) for name, parts in slices.items()}


def open_artifact(path: Path) -> Artifact:
    """The artifact in a folder; ArtifactError if it is not there, unfinished or damaged."""
    manifest = path / "manifest.json"
    if not manifest.is_file():
        unfinished = (path / "blocks").is_dir()
        remedy = (
            "run the same quantize command again to finish it" if unfinished else "give the folder that quantize wrote"
        )
        raise ArtifactError(f"{path} is not a finished artifact (no manifest.json): {remedy}")
    try:
        data = read_json(manifest)
    except ValueError as error:
        raise ArtifactError(f"{error} that wrote this folder") from error
    if isinstance(data, dict) and data.get("kind") == "network":
        raise ArtifactError(
            f"{path} holds a whole network: its ONNX file is in {path}/export/onnx, what was found about it in "
            f"{path}/delivery.json and {manifest}"
        )
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ArtifactError(f"{manifest}: format {FORMAT} is what this version reads; quantize again with it")
    artifact = Artifact(path, data)
    for index, file in artifact.parts():
        wanted = data["digests"]["outside" if index is None else f"{index:05d}"]
        if not file.is_file():
            raise ArtifactError(f"{file} is missing; run the same quantize command again to make it anew")
        if file_digest(file) != wanted:
            raise ArtifactError(f"{file} is damaged (its digest differs); run the same quantize command again")
    return artifact


def block_file(folder: Path, index: int) -> Path:
    """Where a block's tensors are."""
    return folder / "blocks" / f"{index:05d}.safetensors"


def write_block(
    folder: Path, index: int, key: str, tensors: tuple[Mapping[str, QTensor], Mapping[str, Tensor]], report: Any
) -> None:
    """Store a block: quantized tensors and kept parameters, then the note that makes it count."""
    write_piece(block_file(folder, index), key, arrays_of(tensors), report)


def arrays_of(tensors: tuple[Mapping[str, QTensor], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Quantized tensors under `q.`, kept parameters under `k.`."""
    arrays = {f"k.{name}": tensor for name, tensor in tensors[1].items()}
    for name, qtensor in tensors[0].items():
        arrays |= {f"q.{key}": array for key, array in flatten(name, qtensor).items()}
    return arrays


def read_block(folder: Path, index: int, key: str) -> Any | None:
    """The report of a stored block if it has this key and is intact, else None."""
    piece = read_piece(block_file(folder, index), key)
    return None if piece is None else piece.report


def read_qtensors(folder: Path, index: int, entries: list[Entry]) -> dict[str, QTensor]:
    """The quantized tensors of a stored block."""
    arrays = read_arrays(block_file(folder, index), "q.")
    return {entry.name: gather(entry.name, entry.spec, entry.shape, arrays) for entry in entries}
