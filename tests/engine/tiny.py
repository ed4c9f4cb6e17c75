"""Tiny models, rows and a recipe for runs that take less than a second, and all that such a run left on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import transformers

from bitwright.numerics import Int, Spec, per_group
from bitwright.quantize import Resources, quantize
from bitwright.recipe.presets import asymmetric
from bitwright.recipe.recipe import Recipe, Rule
from bitwright.store.artifact import Artifact
from bitwright.store.batches import Batches
from store.small_models import GROUPED, SHARED, TOLD, save

ROUTED = {"num_local_experts": 4, "num_experts_per_tok": 2}
PLAIN = {"vocab_size": 160, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
CONFIGS: dict[str, transformers.PreTrainedConfig] = {
    "dense": transformers.LlamaConfig(**{**GROUPED, "num_hidden_layers": 3}),
    "wide": transformers.LlamaConfig(**{**GROUPED, "num_hidden_layers": 3, "intermediate_size": 80}),
    "deep": transformers.LlamaConfig(**{**GROUPED, "num_hidden_layers": 4}),
    "routed": transformers.MixtralConfig(**GROUPED, **ROUTED),
    "transposed": transformers.GPT2Config(**PLAIN),
    "told": transformers.Gemma4TextConfig(
        **TOLD, per_layer_config={"1": {"head_dim": 8}}
    ),  # its blocks are given embeddings of their own
    "shared": transformers.Gemma4TextConfig(**SHARED),
}
# 3 bits with feedback in the blocks, and a table outside them
RECIPE = Recipe((Rule("*", asymmetric(3, 16)), Rule("kind:embedding", Spec(Int(8), per_group(16)))))


def model(folder: Path, config: str = "dense", dtype: torch.dtype = torch.float32) -> Path:
    """A model's folder."""
    return save(folder, CONFIGS[config], dtype=dtype)


def token_rows(count: int = 20, length: int = 16, seed: int = 0) -> Batches:
    """Random rows, the last tenth held out."""
    rows = torch.randint(3, 160, (count, length), generator=torch.Generator().manual_seed(seed))
    return Batches(rows, max(1, count // 10), f"{seed} {count} {length}")


def run(source: Path, out: Path, recipe: Recipe = RECIPE, compute: torch.dtype | None = None) -> Artifact:
    """The command that all tests of resumption repeat."""
    return quantize(source, recipe, out, token_rows(), Resources(compute))


def stop_after(source: Path, out: Path, blocks: int, compute: torch.dtype | None = None) -> None:
    """The same command, given up when so many blocks are done: the streams before the next one are on disk."""

    def count(done: object) -> None:
        nonlocal blocks
        blocks -= 1
        if not blocks:
            raise InterruptedError

    try:
        quantize(source, RECIPE, out, token_rows(), Resources(compute), count)
    except InterruptedError:
        return
    raise AssertionError("the run ended before it was to be given up")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def clone(folder: Path, target: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(folder, target)
    return target


def flip(file: Path, place: int, bit: int = 1) -> None:
    """Change one bit of a file; a negative place counts from the end."""
    data = bytearray(file.read_bytes())
    data[place] ^= bit
    file.write_bytes(data)
