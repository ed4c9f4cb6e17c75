"""Small artifacts: random models, every weight in a storage of its own where a test wants that."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import transformers

from bitwright.numerics import PER_ROW, PER_TENSOR, Float8, Int, Spec, Tile, per_block, per_group
from bitwright.quantize import quantize
from bitwright.recipe.presets import OWN, nearest
from bitwright.recipe.recipe import Recipe, Rule
from bitwright.store.artifact import Artifact
from bitwright.store.source import open_source
from store.small_models import GROUPED

NAMES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
NAMES += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
LAYERS = 5


def integers(bits: int, is_symmetric: bool, tile: Tile) -> Spec:
    if is_symmetric:
        return Spec(Int(bits), tile, scale=OWN)
    return Spec(Int(bits, signed=False), tile, scale=OWN, zero=Spec(Int(bits, signed=False)))


INTEGERS = {
    f"{'int' if is_symmetric else 'uint'}{bits} {tile}": integers(bits, is_symmetric, tile)
    for bits, is_symmetric, tile in itertools.product(range(2, 9), (True, False), (per_group(16), PER_ROW))
}
FLOATS = {f"float8 {tile}": Spec(Float8(), tile, scale=OWN) for tile in (PER_ROW, PER_TENSOR, per_block(8, 16))}
SIGNED = {"int4 with signed zeros": Spec(Int(4), per_group(16), scale=OWN, zero=Spec(Int(4)))}
SPECS = INTEGERS | FLOATS | SIGNED


def every_spec() -> Recipe:
    """One weight of a Llama of LAYERS layers in each of SPECS, from the first on; the rest is kept."""
    names = [f"model.layers.{layer}.{name}" for layer in range(LAYERS) for name in NAMES]
    assert len(names) > len(SPECS)
    return Recipe(tuple(Rule(name, spec) for name, spec in zip(names, SPECS.values(), strict=False)))


def make(source: Path, out: Path, recipe: Recipe | Spec) -> Artifact:
    """The source rounded to nearest; a spec alone is that of every linear."""
    recipe = Recipe((Rule("*", recipe),)) if isinstance(recipe, Spec) else recipe
    return quantize(open_source(source), nearest(recipe), out)


def llama_config(**changes: object) -> transformers.LlamaConfig:
    sizes: Mapping[str, object] = {**GROUPED, **changes}
    return transformers.LlamaConfig(**sizes)
