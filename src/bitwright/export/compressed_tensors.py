"""The layout of the compressed-tensors package, which vLLM, SGLang and transformers read.

Integers ("pack-quantized"): `weight_packed` holds code - low, which is the unsigned form, in 32-bit words along the
input; `weight_scale` one scale per tile; `weight_zero_point` zero - low in words along the output (asymmetric only);
`weight_shape` the true shape. A reader subtracts 2**(bits - 1) from both, which cancels in code - zero. 8-bit floats
("float-quantized"): `weight` holds the floats themselves. config.json says which module is stored how.

Source: vllm-project/compressed-tensors 0.20, compressors/pack_quantized and naive_quantized.
Differs: scales may be negative (a symmetric signed full range); readers multiply, so this is legal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from bitwright.export.checkpoint import SHARD_BYTES, copy_side_files, write_config, write_weights
from bitwright.export.compressed_config import Stored, linears, quantization_config
from bitwright.export.exporter import Exporter, ExportError
from bitwright.export.homes import WEIGHT, Homes, check_experts
from bitwright.export.packing import pack_columns, pack_rows
from bitwright.export.schemes import find_scheme
from bitwright.numerics import Float, Int, QTensor, Spec
from bitwright.store.artifact import Artifact, Entry
from bitwright.store.layout import open_layout
from bitwright.store.source import Source

_REMEDY = "Export with `--to dense`, which holds everything"


@final
@dataclass(frozen=True, slots=True)
class CompressedTensors(Exporter):
    """Packed integers of 2 to 8 bits (per group or row) and 8-bit floats (per row, tensor or block)."""

    shard_bytes: int = SHARD_BYTES

    def check(self, layout: Source, entries: Sequence[Entry]) -> None:
        """Raises ExportError for a weight that the layout cannot hold."""
        homes = Homes(layout, linears(layout))
        for entry in entries:
            try:
                find_scheme(entry.spec)
                homes.of(entry)
            except ExportError as error:
                raise ExportError(f"{entry.name}: {error}. {_REMEDY}") from error
        check_experts(layout, entries)
        _check_kept(layout, entries)

    def write(self, artifact: Artifact, out: Path) -> tuple[str, ...]:
        """Write the checkpoint."""
        layout = open_layout(artifact.path / "source")
        homes = Homes(layout, linears(layout))
        write_weights(_groups(artifact, layout, homes), out, self.shard_bytes)
        copy_side_files(layout, out)
        write_config(layout, out, {"quantization_config": quantization_config(layout, _stored(artifact, homes))})
        return _notes(artifact)


def _check_kept(layout: Source, entries: Sequence[Entry]) -> None:
    """Refuses what transformers would open without an error and fill with random numbers.

    Beside packed integers it looks for packed experts only, so experts that were kept and that it merges are not found.
    """
    quantized = {entry.parameter for entry in entries}
    merged = [name for name in layout.parameters() if name not in quantized and layout.renamed(name) is None]
    if merged and any(isinstance(entry.spec.format, Int) for entry in entries):
        parts = layout.checkpoint_names(merged[0])
        raise ExportError(
            f"{merged[0]}: it was kept, and the checkpoint has it as {parts[0]} ({len(parts)} tensors); beside packed "
            f"integers transformers does not find these. Store the other weights in 8-bit floats (fp8), or export with "
            f"`--to dense`, which holds everything"
        )


def _stored(artifact: Artifact, homes: Homes) -> list[Stored]:
    """Every module that holds quantized numbers."""
    return [
        Stored(
            home.module,
            None if entry.index is not None else entry.parameter.removesuffix(WEIGHT),
            find_scheme(entry.spec),
        )
        for entry in artifact.entries
        for home in homes.of(entry)
    ]


def _groups(artifact: Artifact, layout: Source, homes: Homes) -> Iterator[dict[str, Tensor]]:
    """The tensors of one file of the artifact after the other, under the checkpoint's names."""
    entries = {entry.name: entry for entry in artifact.entries}
    for block, _ in artifact.parts():
        tensors = layout.to_checkpoint(artifact.kept(block))
        for name, qtensor in artifact.qtensors(block).items():
            for home in homes.of(entries[name]):
                parts = stored_parts(qtensor.rows(home.start, home.stop))
                tensors |= {f"{home.module}.{part}": tensor for part, tensor in parts.items()}
        yield tensors


def stored_parts(qtensor: QTensor) -> Mapping[str, Tensor]:
    """One quantized weight as the tensors of its module. Raises ExportError if the layout cannot hold its spec."""
    scheme = find_scheme(qtensor.spec)
    assert qtensor.scale is not None
    scale = qtensor.scale.codes.reshape(scheme.scale_shape(qtensor.shape)).contiguous()
    if not isinstance(qtensor.spec.format, Int):
        return {"weight": qtensor.codes.view(torch.float8_e4m3fn), "weight_scale": scale}
    parts = {
        "weight_packed": pack_rows(_unsigned(qtensor), scheme.bits),
        "weight_scale": scale,
        "weight_shape": torch.tensor(qtensor.shape, dtype=torch.int64),
    }
    if qtensor.zero is not None:
        parts["weight_zero_point"] = pack_columns(_unsigned(qtensor.zero), scheme.bits)
    return parts


def _unsigned(qtensor: QTensor) -> Tensor:
    return (qtensor.codes.to(torch.int16) - int(qtensor.spec.format.low)).to(torch.uint8)


def _notes(artifact: Artifact) -> tuple[str, ...]:
    """What the measurements in docs/loading.md say about readers of such a checkpoint."""
    specs = {entry.spec for entry in artifact.entries}
    schemes = {find_scheme(spec) for spec in specs}
    odd = sorted({str(scheme.bits) for scheme in schemes} - {"2", "4", "8"})
    notes: list[str] = []
    if odd:
        notes.append(f"{', '.join(odd)}-bit codes are packed densely; compressed-tensors before 0.18 misreads them")
    if not all(scheme.is_symmetric for scheme in schemes):
        notes.append("transformers 5.17 to 5.22 loads asymmetric weights; 5.23 and 5.24 only with dequantize=True")
    if len(schemes) > 1:
        notes.append("weights are stored in several ways; transformers 5.23 and 5.24 misread that with dequantize=True")
    if any(_is_rounded(spec, artifact.dtype) for spec in specs):
        notes.append("scales have another float type than the model; transformers rounds them to the model's")
    return tuple(f"{note} (docs/loading.md)" for note in notes)


def _is_rounded(spec: Spec, model: torch.dtype) -> bool:
    """Whether scales lose bits where a reader holds them in the model's float type, as transformers does."""
    assert spec.scale is not None
    form = spec.scale.format
    return isinstance(form, Float) and model not in (torch.float32, form.kind.dtype)
