"""The main path on one page: open, trace, plan, run. Everything else reads the artifact that this leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bitwright.engine.folder import RunError
from bitwright.engine.manifest import write_manifest
from bitwright.engine.run import BlockDone, Run
from bitwright.graph import trace
from bitwright.recipe.plan import Plan, PlanError, Stored, make_plan
from bitwright.recipe.recipe import Recipe
from bitwright.store.artifact import Artifact, open_artifact
from bitwright.store.batches import Batches
from bitwright.store.lock import only_run
from bitwright.store.source import Source, open_source


@dataclass(frozen=True, slots=True)
class Resources:
    """What may be used. `compute`: the float type activations are held in; None: as `compute_type` says."""

    compute: torch.dtype | None = None


def compute_type() -> torch.dtype:
    """float32, whatever the checkpoint's type: streams then show the drift that targets correct without rounding noise.

    Weights in bfloat16 stay so, and products with them run on bfloat16 matrix units (`execute/mixed.py`).
    """
    return torch.float32


def ignore(done: BlockDone) -> None:
    """The callback that does nothing."""


def plan_source(source: Source, recipe: Recipe) -> Plan:
    """What would be done to this source; PlanError where the recipe cannot work on it."""
    stored = {name: Stored(shape.shape, shape.dtype) for name, shape in source.parameters().items()}
    return make_plan(trace(source.skeleton()), recipe, stored, source.dtype, source.tied())


def quantize(
    model: Path | Source,
    recipe: Recipe,
    out: Path,
    batches: Batches | None = None,
    resources: Resources = Resources(),
    on_block: Callable[[BlockDone], None] = ignore,
) -> Artifact:
    """Quantize a model into the folder `out`; the same call again resumes. Raises ValueError on bad input.

    `batches` are calibration rows (`read_batches`); a recipe whose solver needs data and has none is a PlanError.
    """
    source = model if isinstance(model, Source) else open_source(model)
    plan = plan_source(source, recipe)
    if plan.needs_data and batches is None:
        raise PlanError("this recipe's solver needs calibration data: give a text, or use a recipe with Nearest")
    run = Run(plan, source, batches, out, resources.compute or compute_type())
    with only_run(out):
        for done in run.blocks():
            on_block(done)
        write_manifest(plan, source, batches, out)
    return open_artifact(out)


__all__ = ["Resources", "RunError", "compute_type", "plan_source", "quantize"]
