"""What an artifact keeps of its source: configuration, tokenizer, and the names of the checkpoint's tensors.

An exporter writes a checkpoint with the names that the source's files had, long after that folder is gone. All it needs
is config.json and one more file, layout.json, that gives for each tensor of the checkpoint what the headers of the
weight files gave: name, shape and dtype; and which tensors proved to be one and the same. ``open_layout`` opens such a
folder just as ``open_source`` opens a model. Only what needs the numbers themselves (read, digest) is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from bitwright.store.files import write_bytes
from bitwright.store.hf_config import read_config
from bitwright.store.renames import Renames
from bitwright.store.safetensors_file import DTYPES, TensorShape
from bitwright.store.source import Source, assemble
from bitwright.store.source_error import SourceError
from bitwright.store.weight_files import WeightFiles

LAYOUT = "layout.json"
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_layout(source: Source, folder: Path) -> None:
    """Leave in ``folder`` what ``open_layout`` needs: the source's side files, and names and shapes of its tensors."""
    for file in source.side_files():
        target = folder / file.relative_to(source.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    tensors = {name: [_NAMES[tensor.dtype], *tensor.shape] for name, tensor in source.stored().items()}
    text = json.dumps({"tensors": tensors, "tied": dict(source.tied())}, sort_keys=True, separators=(",", ":"))
    write_bytes(folder / LAYOUT, text.encode() + b"\n")


def open_layout(folder: Path) -> Source:
    """The source as it was, without its weights: read() and digest() raise SourceError, all else works.

    Raises SourceError if the folder has no layout, or one that does not fit its config.json.
    """
    file = folder / LAYOUT
    if not file.is_file():
        raise SourceError(
            f"{file} is missing, so the checkpoint's names are unknown. Quantize again with this version."
        )
    config = read_config(folder)
    tensors, tied = _parse(file)

    def is_equal(_renames: Renames, first: str, second: str) -> bool:
        return tied.get(second) == first

    return assemble(folder, config, WeightFiles((), tensors, dict.fromkeys(tensors, file), {}), is_equal)


def _parse(file: Path) -> tuple[dict[str, TensorShape], Mapping[str, str]]:
    try:
        content = json.loads(file.read_bytes())
        tensors = {name: _shape(*described) for name, described in content["tensors"].items()}
        tied = {str(alias): str(stored) for alias, stored in content["tied"].items()}
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise SourceError(f"{file} is damaged ({error}). Run the same quantize command again.") from error
    return tensors, tied


def _shape(dtype: str, *sizes: int) -> TensorShape:
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError(f"{sizes} is no shape")
    return TensorShape(sizes, DTYPES[dtype])
