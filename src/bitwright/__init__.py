"""Post-training quantization: trace a model, plan, run block by block, and read the artifact."""

from bitwright.numerics import (
    E2M1,
    NF4,
    PER_ROW,
    PER_TENSOR,
    Float8,
    Grid,
    Int,
    QTensor,
    Spec,
    Tile,
    per_block,
    per_group,
)
from bitwright.quantize import Resources, plan_source, quantize
from bitwright.recipe.plan import Plan
from bitwright.recipe.recipe import Recipe, Refinement, Rule, Search
from bitwright.recipe.text import find_recipe, read_recipe
from bitwright.solvers import Feedback, Nearest
from bitwright.store.artifact import Artifact, open_artifact
from bitwright.store.batches import Batches, read_batches
from bitwright.store.source import open_source
from bitwright.tune import Tuning, tune
from bitwright.version import __version__

__all__ = [
    "E2M1",
    "NF4",
    "PER_ROW",
    "PER_TENSOR",
    "Artifact",
    "Batches",
    "Feedback",
    "Float8",
    "Grid",
    "Int",
    "Nearest",
    "Plan",
    "QTensor",
    "Recipe",
    "Refinement",
    "Resources",
    "Rule",
    "Search",
    "Spec",
    "Tile",
    "Tuning",
    "__version__",
    "find_recipe",
    "open_artifact",
    "open_source",
    "per_block",
    "per_group",
    "plan_source",
    "quantize",
    "read_batches",
    "read_recipe",
    "tune",
]
