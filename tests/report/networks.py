"""The folder of a quantized network made of invented but plausible figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def manifest(layers: int = 3) -> Json:
    spec = {"type": "Spec", "format": {"type": "Int", "width": 8}, "tile": {"type": "Tile", "rows": 1}}
    weights = [
        {
            "name": f"layer{i}.weight",
            "shape": [8, 4, 3, 3],
            "stored": spec,
            "bits": 8 * 288 + 32 * 8,
            "sqnr": 40.0 + i,
            "sqnr_nearest": 37.0 + i,
            "bias_corrected": i == 0,
            "notes": ["rounded to nearest"] if i == 1 else [],
        }
        for i in range(layers)
    ]
    points = [
        {
            "value": f"relu{i}",
            "group": "relu0",
            "stored": {"format": {"type": "Int", "width": 8, "signed": False}, "tile": {"type": "Tile"}, "zero": {}},
            "rule": {"type": "Percentile", "percent": 99.99},
            "low": 0.0,
            "high": 3.5 + i,
            "clipped": 0.0001,
            "sqnr": 38.5,
        }
        for i in range(layers)
    ]
    return {
        "kind": "network",
        "format": 1,
        "version": "1.2.3",
        "recipe": {"type": "NetworkRecipe", "weight_bits": 8, "target": "x86-vnni"},
        "source": {"digest": "abc", "notes": ["exported from mine:build"]},
        "samples": {"count": 64, "digest": "def", "preprocessing": "arrays as they are"},
        "weights": weights,
        "points": points,
        "roles": {f"conv{i}": "linear" for i in range(layers)},
        "float": {"soft": "no integer Softmax", "norm": "no integer Softmax", "odd": "asked to stay float"},
        "findings": ["2 of 64 samples repeat an earlier one"],
        "range_rules": [{"rule": {"type": "MinMaxRange"}, "output_noise": 0.002}],
        "edits": {
            "equalize": {"is_kept": True, "output_noise_before": 0.004, "tried": [{"output_noise": 0.002, "pairs": 3}]},
            "absorb": {
                "is_kept": False,
                "output_noise_before": 0.002,
                "refused": ["conv7: Conv (y7) pads it with zeros"],
                "tried": [{"output_noise": 0.003, "sites": [{"site": "a > b", "channels": 5}, {"channels": 2}]}],
            },
        },
        "goal": {
            "goals": [{"min_sqnr": 30.0}, {"metric": "mine:top1", "max_drop": 0.01}],
            "is_met": True,
            "rounds": [
                {"float": 0, "found": [26.5, 0.02], "noise": 0.0022},
                {"float": 4, "found": [31.4, 0.004], "noise": 0.00075},
            ],
        },
        "float_bytes": 5000,
    }


SCORES: Json = {
    "kind": "network",
    "metric": {
        "name": "mine:top1",
        "original": 0.83,
        "delivered": 0.82,
        "interval": [-0.02, 0.004],
        "samples": 256,
        "higher_is_better": True,
    },
    "outputs": [{"output": "y", "original_db": 31.4, "simulation_db": None}],
    "compared_on": "256 samples",
    "is_simulated": False,
    "bytes": 3000,
    "bytes_original": 12000,
}
DELIVERY: Json = {
    "machine": {"name": "A processor"},
    "foretold": {"target": "x86-vnni", "is_here": False, "outputs": [{"output": "y", "original_db": 30.9}]},
    "trials": [
        {
            "engine": "ONNX Runtime",
            "version": "1.32",
            "outputs": [{"output": "y", "original_db": 31.0, "simulation_db": 48.0}],
            "counts": {"integer": {"Conv": 3}, "float": {"Softmax": 2}},
            "latencies": [
                {
                    "against": "fp32",
                    "batch": "1x3x8x8",
                    "speedup": 2.31,
                    "low": 2.2,
                    "high": 2.4,
                    "milliseconds": 0.4,
                    "milliseconds_against": 0.92,
                }
            ],
        }
    ],
    "problems": [],
    "warnings": ["not known to be faster than bf16"],
}


def write(folder: Path, content: Json, scores: Json | None = SCORES, delivery: Json | None = DELIVERY) -> Path:
    """A folder with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"manifest": content, "scores": scores, "delivery": delivery, "run": {"model": "net.onnx", "seconds": 3.0}}
    for name, held in files.items():
        if held is not None:
            (folder / f"{name}.json").write_text(json.dumps(held))
    return folder
