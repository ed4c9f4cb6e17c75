"""The artifact as an ordinary checkpoint of plain floats, for any software that reads the source's own.

Every quantized weight is dequantized and everything has the name that it had in the source's files, so nothing but the
numbers tells the two apart. It is as large as the source; it holds any artifact, whatever its format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from bitwright.export.checkpoint import SHARD_BYTES, copy_side_files, write_config, write_weights
from bitwright.export.exporter import Exporter, ExportError
from bitwright.store.artifact import Artifact, Entry
from bitwright.store.files import read_json
from bitwright.store.layout import open_layout
from bitwright.store.source import Source

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_DTYPE_KEYS = ("dtype", "torch_dtype")


@final
@dataclass(frozen=True, slots=True)
class Dense(Exporter):
    """Plain floats: `dtype` for every float tensor, or (None) those of the source. float32 loses nothing."""

    dtype: torch.dtype | None = None
    shard_bytes: int = SHARD_BYTES

    def check(self, layout: Source, entries: Sequence[Entry]) -> None:
        """Any weight can be written; ExportError if `dtype` is no float type."""
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise ExportError(f"dense weights are float32, float16 or bfloat16; found {self.dtype}")

    def write(self, artifact: Artifact, out: Path) -> tuple[str, ...]:
        """Write the checkpoint."""
        layout = open_layout(artifact.path / "source")
        write_weights(self._groups(artifact, layout), out, self.shard_bytes)
        copy_side_files(layout, out)
        write_config(layout, out, self._config_changes(layout))
        dtype = self.dtype or artifact.dtype
        if dtype == torch.float32:
            return ()
        return (f"weights are rounded to {str(dtype).removeprefix('torch.')}; Dense(torch.float32) keeps every bit",)

    def _groups(self, artifact: Artifact, layout: Source) -> Iterator[dict[str, Tensor]]:
        for block, _ in artifact.parts():
            tensors = artifact.parameters(block, self.dtype)
            if self.dtype is not None:
                tensors = {name: t.to(self.dtype) if t.is_floating_point() else t for name, t in tensors.items()}
            yield layout.to_checkpoint(tensors)

    def _config_changes(self, layout: Source) -> dict[str, Any]:
        """The top-level fields of config.json in which a dtype has to be another one."""
        if self.dtype is None:
            return {}
        fields = read_json(layout.path / "config.json")
        name = str(self.dtype).removeprefix("torch.")
        changed = {"dtype": name} | {key: _with_dtype(value, name) for key, value in fields.items()}
        return changed | {key: name for key in _DTYPE_KEYS if key in fields}


def _with_dtype(value: Any, name: str) -> Any:
    """The value with every dtype inside nested configurations replaced."""
    if not isinstance(value, dict):
        return value
    return {key: name if key in _DTYPE_KEYS else _with_dtype(item, name) for key, item in value.items()}
