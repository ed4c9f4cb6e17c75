"""A quantized network on disk: one folder that exporters, evaluation and the report only read.

manifest.json        the recipe as text, weights and points with their ranges and how well they came out, what stays
                     float and why, what the calibration data showed, digests, versions
weights.safetensors  codes and scales of the weights
float.onnx           the float graph after edits and bias corrections, with the user's names
source/model.onnx    what a module or an encoder was exported to, before all edits
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from bitwright import numerics
from bitwright.numerics import Params, Spec
from bitwright.numerics.plain import from_plain, to_plain
from bitwright.store.artifact import ArtifactError
from bitwright.store.files import file_digest, read_json, write_json, write_tensors
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.quantized import QuantizedNetwork, StoredPoint, StoredWeight
from bitwright.store.tensors import flatten, gather

NETWORK_FORMAT = 1
KIND = "network"
MANIFEST = "manifest.json"
EXPORTED = "source"
_SPECS = {name: vars(numerics)[name] for name in numerics.__all__ if isinstance(vars(numerics)[name], type)}


def write_network(held: QuantizedNetwork, notes: Mapping[str, Any], folder: Path) -> None:
    """Store weights and manifest beside float.onnx, which is there already; the manifest comes last.

    `notes`: what else the manifest says. Its `weights` and `points` are tables by name, of which each entry is joined
    with what is stored.
    """
    arrays: dict[str, Tensor] = {}
    for name, weight in held.weights.items():
        arrays |= flatten(name, weight.qtensor)
    write_tensors(folder / "weights.safetensors", arrays)
    digests = {file: file_digest(folder / file) for file in ("weights.safetensors", "float.onnx")}
    data = held.source.path.with_name("float.onnx.data")
    if data.is_file():
        digests[data.name] = file_digest(data)
    manifest = {
        **notes,
        "format": NETWORK_FORMAT,
        "kind": KIND,
        "weights": [_weight(weight) | notes["weights"].get(name, {}) for name, weight in held.weights.items()],
        "points": [_point(point) | notes["points"].get(point.group, {}) for point in held.points.values()],
        "integer": sorted(held.integer),
        "engine": held.engine,
        "float_bytes": float_bytes(held),
        "digests": digests,
    }
    write_json(folder / MANIFEST, manifest)


def float_bytes(held: QuantizedNetwork) -> int:
    """Size of the float file without the numbers that lie in codes beside it."""
    return held.source.bytes - sum(4 * math.prod(weight.shape) for weight in held.weights.values())


def is_made(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether the folder's finished network was made from just this: entries of the manifest, as plain data."""
    if not (folder / MANIFEST).is_file():
        return False
    manifest = read_manifest(folder)
    return all(manifest.get(key) == value for key, value in json.loads(json.dumps(wanted)).items())


def open_network(folder: Path) -> QuantizedNetwork:
    """The quantized network in a folder; ArtifactError if it is not there, unfinished or damaged."""
    manifest = read_manifest(folder)
    for name, digest in manifest["digests"].items():
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder / name} is missing; run the same quantize command again to make it anew")
        if file_digest(folder / name) != digest:
            raise ArtifactError(f"{folder / name} is damaged (its digest differs); run the same command again")
    with safe_open(folder / "weights.safetensors", framework="pt") as archive:
        arrays = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
    weights, points = {}, {}
    for entry in manifest["weights"]:
        spec = from_plain(entry["stored"], Spec, _SPECS, entry["name"])
        rows, cols = entry["matrix"]
        qtensor = gather(entry["name"], spec, (rows, cols), arrays)
        weights[entry["name"]] = StoredWeight(
            entry["name"], entry["axis"], tuple(entry["shape"]), qtensor, tuple(entry["nodes"])
        )
    for entry in manifest["points"]:
        spec = from_plain(entry["stored"], Spec, _SPECS, entry["value"])
        readers = None if entry["readers"] is None else tuple(entry["readers"])
        points[entry["value"]] = StoredPoint(
            entry["value"], spec, entry["group"], readers, entry["low"], entry["high"], _params(spec, entry)
        )
    source, integer = OnnxSource.open(folder / "float.onnx"), frozenset(manifest["integer"])
    return QuantizedNetwork(source, weights, points, integer, manifest.get("engine", ""))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a quantized network; ArtifactError where the folder holds none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} is not a finished artifact (no manifest.json): run the quantize command again")
    try:
        manifest: dict[str, Any] = read_json(path)
    except ValueError as error:
        raise ArtifactError(f"{error} that wrote this folder") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND or manifest.get("format") != NETWORK_FORMAT:
        raise ArtifactError(f"{path}: not a quantized network of format {NETWORK_FORMAT}; quantize again")
    return manifest


def _weight(weight: StoredWeight) -> dict[str, Any]:
    return {
        "name": weight.name,
        "axis": weight.axis,
        "shape": list(weight.shape),
        "matrix": list(weight.qtensor.shape),
        "stored": to_plain(weight.qtensor.spec),
        "bits": weight.qtensor.bits,
        "nodes": list(weight.nodes),
    }


def _params(spec: Spec, entry: Mapping[str, Any]) -> Params | None:
    """Scale and zero of a point; None where they are found when the network runs."""
    if entry["scale"] is None:
        return None
    zero = None if spec.zero is None else torch.tensor([[float(entry["zero"])]])
    return Params(torch.tensor([[entry["scale"]]], dtype=torch.float32), zero)


def _point(point: StoredPoint) -> dict[str, Any]:
    return {
        "value": point.value,
        "group": point.group,
        "stored": to_plain(point.spec),
        "readers": None if point.readers is None else list(point.readers),
        "low": point.low,
        "high": point.high,
        "scale": None if point.is_dynamic else point.scale,
        "zero": None if point.is_dynamic else point.zero,
    }
