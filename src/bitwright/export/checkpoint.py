"""The files of a Hugging Face checkpoint: weights in safetensors shards, configuration and tokenizer beside them.

Tensors arrive block by block and are collected until a shard is full, so memory holds one shard and one block, whatever
the model's size. A model that fits one shard is model.safetensors; a larger one is model-00001-of-0000N.safetensors and
so on, with an index that says which shard holds which tensor.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bitwright.store.files import read_json, write_json, write_tensors
from bitwright.store.source import Source

SHARD_BYTES = 2 * 10**9


def write_weights(groups: Iterable[Mapping[str, Tensor]], out: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the tensors of all groups; a group is never cut, so a shard may exceed `shard_bytes` by one group."""
    drafts: list[Path] = []
    names: list[list[str]] = []
    total = 0

    def flush(held: dict[str, Tensor]) -> None:
        drafts.append(out / f"shard-{len(drafts)}.draft")
        names.append(sorted(held))
        write_tensors(drafts[-1], held, {"format": "pt"})

    held: dict[str, Tensor] = {}
    for group in groups:
        assert not held.keys() & group.keys()
        if held and _bytes(held) + _bytes(group) > shard_bytes:
            flush(held)
            held = {}
        held |= group
        total += _bytes(group)
    flush(held)
    _name_shards(drafts, names, total)


def copy_side_files(layout: Source, out: Path) -> None:
    """Copy tokenizer, generation configuration and chat templates: all but config.json."""
    for file in layout.side_files():
        target = out / file.relative_to(layout.path)
        if target != out / "config.json":
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def write_config(layout: Source, out: Path, changes: Mapping[str, Any]) -> None:
    """Write the source's config.json with some fields set; without changes it stays the same to the byte."""
    original = layout.path / "config.json"
    if not changes:
        shutil.copyfile(original, out / "config.json")
    else:
        write_json(out / "config.json", read_json(original) | dict(changes))


def _name_shards(drafts: list[Path], names: list[list[str]], total: int) -> None:
    count = len(drafts)
    if count == 1:
        drafts[0].replace(drafts[0].with_name("model.safetensors"))
        return
    homes: dict[str, str] = {}
    for number, (draft, inside) in enumerate(zip(drafts, names, strict=True), 1):
        shard = draft.with_name(f"model-{number:05d}-of-{count:05d}.safetensors")
        draft.replace(shard)
        homes |= dict.fromkeys(inside, shard.name)
    index = {"metadata": {"total_size": total}, "weight_map": homes}
    write_json(drafts[0].with_name("model.safetensors.index.json"), index)


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
