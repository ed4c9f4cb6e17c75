"""Writes the tuned artifact: the one that it was made from, with other codes and scales and a word on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitwright.numerics import QTensor
from bitwright.store.artifact import Artifact, block_file, write_block
from bitwright.store.files import file_digest, read_json, write_json

_OUTSIDE = ("outside.safetensors", "outside.json")


def write_tuned(artifact: Artifact, tuned: Mapping[str, QTensor], notes: Mapping[str, Any], out: Path) -> None:
    """Write the folder `out`, the manifest last. Weights that `tuned` lacks stay as they are."""
    manifest: dict[str, Any] = json.loads(json.dumps(dict(artifact.manifest)))
    moved: dict[str, int] = {}
    digests: dict[str, str] = {}
    for index, _ in artifact.parts():
        if index is None:
            continue
        before = artifact.qtensors(index)
        after = {name: tuned.get(name, qtensor) for name, qtensor in before.items()}
        for name in before.keys() & tuned.keys():
            moved[name] = int((before[name].codes != after[name].codes).sum())
        note = read_json(block_file(artifact.path, index).with_suffix(".json"))
        write_block(out, index, f"tuned {note['key']}", (after, artifact.kept(index)), note["report"])
        digests[f"{index:05d}"] = file_digest(block_file(out, index))
    for name in _OUTSIDE:
        shutil.copyfile(artifact.path / name, out / name)
    shutil.copytree(artifact.path / "source", out / "source", dirs_exist_ok=True)
    for weight in manifest["weights"]:
        if weight["name"] in moved:
            weight["codes_moved"] = moved[weight["name"]]
            weight["chosen"] += ", tuned"
    manifest["digests"] |= digests
    write_json(out / "manifest.json", manifest | {"tuned": dict(notes)})
