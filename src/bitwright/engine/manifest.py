"""Writes the manifest: only what the same inputs make the same. Times, hosts and paths go to run.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitwright.engine.folder import explained
from bitwright.numerics.plain import to_plain
from bitwright.recipe.plan import Plan
from bitwright.store.artifact import FORMAT, block_file
from bitwright.store.batches import Batches
from bitwright.store.files import file_digest, read_json, write_json
from bitwright.store.layout import write_layout
from bitwright.store.source import Source
from bitwright.version import __version__

_SHOWN = 8  # weights whose distributions the manifest keeps, those with the largest share of the loss


def write_manifest(plan: Plan, source: Source, batches: Batches | None, folder: Path) -> None:
    """Assemble manifest.json from the stored blocks, and carry the source's configuration along."""
    with explained(folder):
        reports = [read_json(block_file(folder, i).with_suffix(".json"))["report"] for i in range(len(plan.blocks))]
        outside = read_json(folder / "outside.json")["report"]
        weights = [weight for report in reports for weight in report["weights"]] + outside
        digests = {f"{i:05d}": file_digest(block_file(folder, i)) for i in range(len(plan.blocks))}
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": __version__,
            "recipe": to_plain(plan.recipe),
            "source": _source(source),
            "calibration": None if batches is None else _calibration(batches),
            "weights": _trimmed(weights),
            "kept": [_kept(one) for one in plan.kept],
            "blocks": [{key: report[key] for key in ("name", "error", "error_nearest", "notes")} for report in reports],
            "tied": dict(source.tied()),
            "unused": list(source.unused()),
            "warnings": list(plan.warnings),
            "digests": digests | {"outside": file_digest(folder / "outside.safetensors")},
        }
        write_layout(source, folder / "source")
        write_json(folder / "manifest.json", manifest)


def _source(source: Source) -> dict[str, Any]:
    elements = sum(shape.elements for shape in source.parameters().values())
    dtype = str(source.dtype).removeprefix("torch.")
    return {"digest": source.digest(), "bytes": source.bytes, "dtype": dtype, "parameters": elements}


def _calibration(batches: Batches) -> dict[str, Any]:
    rows, length = batches.rows.shape
    return {"rows": rows, "length": length, "held_out": batches.held_out, "digest": batches.digest}


def _kept(kept: Any) -> dict[str, Any]:
    entry: dict[str, Any] = to_plain(kept)
    del entry["type"]
    return entry


def _trimmed(weights: list[Any]) -> list[Any]:
    """All entries, distributions only in those that lose most."""
    worst = {weight["name"] for weight in sorted(weights, key=lambda weight: -weight["loss"])[:_SHOWN]}
    drop = ("histogram", "input_histogram")
    return [w if w["name"] in worst else {k: v for k, v in w.items() if k not in drop} for w in weights]
