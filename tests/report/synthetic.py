"""Artifact folders made of invented but plausible figures, for the tests of the report and for looking at it.

`python tests/report/synthetic.py FOLDER` writes one, and `python tests/report/synthetic.py FOLDER 80` a large one.
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'<!--\u2028${x}$data\ud800\u202e"
MODULES = {
    "self_attn.q_proj": (1024, 1024, 0.6),
    "self_attn.k_proj": (256, 1024, 0.5),
    "self_attn.v_proj": (256, 1024, 1.0),
    "self_attn.o_proj": (1024, 1024, 1.4),
    "mlp.gate_proj": (2816, 1024, 0.9),
    "mlp.up_proj": (2816, 1024, 1.1),
    "mlp.down_proj": (1024, 2816, 2.3),
}
GRID = [round(-0.082 + 0.0109 * level, 5) for level in range(16)]


def bell(chance: random.Random, bins: int, low: float, high: float, width: float) -> list[int]:
    """Counts of a bell curve with a heavy tail."""
    middles = [low + (high - low) * (i + 0.5) / bins for i in range(bins)]
    return [
        int(40000 * math.exp(-((x / width) ** 2) / 2) * chance.uniform(0.9, 1.1) + 12 / (1 + (x / width) ** 2))
        for x in middles
    ]


def weight_entry(chance: random.Random, block: int, blocks: int, module: str) -> Json:
    """One weight: 4 bits, groups of 128; the first `down_proj` has the outliers that real models have there."""
    rows, cols, badness = MODULES[module]
    depth = block / max(1, blocks - 1)
    loss = 2e-3 * badness * (0.6 + 1.2 * depth**2) * chance.uniform(0.8, 1.25)
    if module == "mlp.down_proj" and block == 1:
        loss *= 14
    elements, groups = rows * cols, rows * cols // 128
    bits = elements * 4 + groups * 20
    failed = chance.random() < 0.02
    return {
        "name": f"model.layers.{block}.{module}",
        "block": block,
        "shape": [rows, cols],
        "spec": "Int(4, unsigned) per group of 128, scale bfloat16, zero Int(4)",
        "bits": bits,
        "code_bits": elements * 4,
        "scale_bits": groups * 16,
        "zero_bits": groups * 4,
        "solver": "Feedback(fitter=MseGrid(), damp=0.01)",
        "chosen": "nearest" if failed else "feedback, target 1.0, residual 0.5",
        "sqnr_db": -10 * math.log10(loss),
        "loss": loss,
        "loss_nearest": loss if failed else loss * chance.uniform(1.5, 2.1),
        "loss_one_bit_more": loss * chance.uniform(0.24, 0.3),
        "bits_one_bit_more": bits + elements,
        "loss_half_group": loss * chance.uniform(0.8, 0.88),
        "bits_half_group": bits + groups * 20,
        "notes": ["Gram not positive definite, damping × 10; worse than nearest on held-out rows, nearest kept"]
        if failed
        else [],
        "histogram": {"low": -0.11, "high": 0.11, "counts": bell(chance, 96, -0.11, 0.11, 0.024), "grid": GRID},
        "input_histogram": {"low": -9.0, "high": 14.0, "counts": bell(chance, 80, -9.0, 14.0, 1.1)},
    }


def manifest(blocks: int = 4, seed: int = 0) -> Json:
    """A manifest of a transformer with this many blocks."""
    chance = random.Random(seed)
    weights = [weight_entry(chance, block, blocks, module) for block in range(blocks) for module in MODULES]
    names = ["input_layernorm", "post_attention_layernorm"]
    norms = [f"model.layers.{block}.{name}.weight" for block in range(blocks) for name in names]
    kept = [{"name": name, "shape": [1024], "bytes": 2048, "kind": "norm", "reason": "not a matrix"} for name in norms]
    tables = [
        ("model.embed_tokens.weight", "embedding", "the recipe quantizes weights of linear layers only"),
        ("lm_head.weight", "head", "the recipe keeps it: `Rule(match='lm_head', weights=None)`"),
    ]
    kept += [{"name": n, "shape": [32000, 1024], "bytes": 65536000, "kind": k, "reason": r} for n, k, r in tables]
    elements = sum(rows * cols for rows, cols, _ in MODULES.values()) * blocks + 2 * 32768000 + 2048 * blocks
    errors, error, nearest = [], 0.004, 0.0062
    for block in range(blocks):
        error, nearest = (value * chance.uniform(1.0, 1.11) + 4e-4 for value in (error, nearest))
        notes = ["recorded on a batch; torch.export could not trace it"] if block == 2 else []
        errors.append({"name": f"model.layers.{block}", "error": error, "error_nearest": nearest * 1.1, "notes": notes})
    return {
        "format": 1,
        "version": "0.1.0",
        "recipe": {
            "weights": "Spec(Int(4, signed=False), per_group(128), scale=bfloat16, zero=Int(4))",
            "solver": {"name": "Feedback", "fitter": "MseGrid()", "damp": 0.01},
            "rules": [{"match": "lm_head", "weights": None}, {"match": "*.down_proj", "damp": 0.02}],
        },
        "source": {
            "name": "Sandpiper-1B-Instruct",
            "digest": "sha256:4f1c9ab27e",
            "bytes": elements * 2,
            "dtype": "bfloat16",
            "parameters": elements,
        },
        "calibration": {"rows": 128, "length": 2048, "held_out": 16, "digest": "sha256:c2aa0917d5"},
        "weights": weights,
        "kept": kept,
        "blocks": errors,
    }


MEASURED: Json = {
    "perplexity": 11.873,
    "perplexity_original": 11.652,
    "kl_mean": 0.01934,
    "kl_p999": 0.6121,
    "top1_agreement": 0.93127,
    "intervals": {
        "perplexity": [11.701, 12.046],
        "perplexity_original": [11.485, 11.822],
        "kl_mean": [0.0187, 0.01999],
        "kl_p999": [0.5512, 0.6804],
        "top1_agreement": [0.92988, 0.93263],
    },
    "tokens": 131072,
    "text": "wikitext-2-raw, test",
}
RUN: Json = {
    "seconds": 431.7,
    "blocks": [{"seconds": 24.5}] * 4,
    "peak_bytes": 2_913_402_880,
    "host": {"cpu": "8 cores", "torch": "2.13.0"},
}


def scores(content: Json) -> Json:
    """Scores whose sizes agree with a manifest of this module."""
    stored = sum(entry["bits"] / 8 for entry in content["weights"]) + sum(entry["bytes"] for entry in content["kept"])
    source = content["source"]
    return MEASURED | {
        "bits_per_weight": stored * 8 / source["parameters"],
        "bytes": stored + 41_000,
        "bytes_original": source["bytes"],
    }


def write_artifact(folder: Path, content: Json, scores: Json | None = None, run: Json | None = None) -> Path:
    """Writes the JSON files of an artifact and returns the folder; `None` leaves a file out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, entry in (("manifest.json", content), ("scores.json", scores), ("run.json", run)):
        if entry is not None:
            (folder / name).write_text(json.dumps(entry))
    return folder


if __name__ == "__main__":
    made = manifest(int(sys.argv[2]) if len(sys.argv) > 2 else 16)
    write_artifact(Path(sys.argv[1]), made, scores(made), RUN)
