"""The run for whole networks: prepare, observe, choose ranges, walk through the weights, finish.

The float graph is edited first in ways that keep what it computes (`prepare.py`). Histograms of one pass over all
samples give every range (`observe.py`, `judge.py`). Then a smaller number of samples walks through the network node by
node: each weight is rounded against the inputs that it will really see, its bias takes back what rounding did to the
mean (`walk.py`). Where the recipe asks for it, roundings are then learned block by block (`learn.py`). All is written
to one folder (`finish.py`).

What a phase has found is kept as a checkpoint until the run is finished: range statistics, gradients, the outcome of
every trial, ranges, each relief, each weight, each learned segment. So a kill costs one of those, and no byte of the
outcome.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bitwright.calib import ExtremesRule, LeastEffect
from bitwright.engine.checkpoint_forms import EFFECTS, OBSERVED, ranges_form
from bitwright.engine.effects import measure_effects
from bitwright.engine.finish import finish, found_notes
from bitwright.engine.folder import CHECKPOINTS, RunError, claim, explained
from bitwright.engine.judge import BATCH, Judge, Ranges, best_ranges, held_out
from bitwright.engine.learn import learn_rounding
from bitwright.engine.observe import Observed, observe, points_of_each
from bitwright.engine.prepare import prepare, without_trials
from bitwright.engine.progress import OnStep, Step, ignore
from bitwright.engine.relief import Relief, Relieved
from bitwright.engine.walk import Task, round_weights, walk_weights
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.numerics.plain import to_plain
from bitwright.recipe.network import NetworkPlan, NetworkRecipe, plan_network
from bitwright.store.checkpoints import Checkpoints, forget
from bitwright.store.files import file_digest, text_digest
from bitwright.store.lock import only_run
from bitwright.store.network_artifact import EXPORTED, MANIFEST, is_made, open_network
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.quantized import QuantizedNetwork
from bitwright.store.sample_set import Samples
from bitwright.version import __version__


def quantize_network(
    source: OnnxSource, recipe: NetworkRecipe, out: Path, samples: Samples | None, on_step: OnStep = ignore
) -> QuantizedNetwork:
    """Quantize a network into the folder `out`; one that is finished there already is opened again.

    The same call after a kill goes on where that one was; a folder that holds another run is refused. `samples` None:
    weights are rounded to nearest, which is possible where no activation needs a range. Raises ValueError on bad
    input, before anything is written if it can.

    Memory: the float network, one batch's values, and the live values of 64 samples at the widest place.
    """
    if samples is None and recipe.needs_samples:
        raise ValueError(
            "static activations and edits need samples: give some, or take a recipe whose activations are found "
            "as the network runs (int8_dynamic) or stay in float (w4a16, w8a16)"
        )
    if source.path.resolve().parent == out.resolve():
        raise RunError(f"{out} is where {source.path.name} lies: give another output folder")
    made_of = _made_of(source, recipe, samples)
    with only_run(out), explained(out):
        claim(out, text_digest(made_of), before=(EXPORTED,))
        if not is_made(out, made_of):
            (out / MANIFEST).unlink(missing_ok=True)
            if samples is None:
                _without_samples(source, recipe, out, made_of, on_step)
            else:
                _with_samples(source, recipe, out, samples, made_of, on_step)
        forget(out / CHECKPOINTS)
        return open_network(out)


def _with_samples(
    source: OnnxSource, recipe: NetworkRecipe, out: Path, samples: Samples, made_of: dict[str, Any], on_step: OnStep
) -> None:
    """The run itself, phase by phase."""
    key = text_digest([made_of, [file_digest(path) for path in source.files()]])  # an export may come out otherwise
    checkpoints = Checkpoints(out / CHECKPOINTS, key, lambda note: on_step(Step("resume", 0, 0, note)))
    prepared = prepare(source, recipe, samples, out, checkpoints, on_step)
    plan = plan_network(prepared.source.network(), recipe)
    runner = OnnxRunner(prepared.source)
    observed = checkpoints.once("calibrate", lambda: _observed(runner, plan, recipe, samples, on_step), OBSERVED)
    if any(isinstance(rule, LeastEffect) for rule in recipe.ranges) and observed.histograms:
        on_step(Step("gradients", 0, 1))
        observed.effects = checkpoints.once(
            "gradients", lambda: measure_effects(prepared.source, plan.placement, observed, samples), EFFECTS
        )
    judge = Judge(runner, held_out(samples))
    ranges = checkpoints.once(
        "ranges",
        lambda: best_ranges(plan, runner, observed, recipe.ranges, judge),
        ranges_form(plan, recipe.ranges),
    )
    relieved = Relieved(plan, ranges)
    if recipe.relief and ranges.points:
        relief = Relief(runner, judge, observed, lambda reasons: plan_network(runner.network, recipe, reasons))
        relieved = relief.relieve(plan, ranges, checkpoints)
    runner.close()
    task = Task(prepared.source, recipe, relieved.plan, relieved.ranges.points)
    walked = walk_weights(task, samples, checkpoints, on_step)
    notes = made_of | {"edits": prepared.edits, "relief": [to_plain(step) for step in relieved.steps]}
    if recipe.learn is not None:
        learned = learn_rounding(task, walked, samples, judge, checkpoints, on_step)
        task, walked = replace(task, points=learned.points), learned.walked
        notes |= {"learned": learned.notes}
    finish(task, walked, notes | found_notes(task, walked, observed, relieved.ranges), out)


def _observed(
    runner: OnnxRunner, plan: NetworkPlan, recipe: NetworkRecipe, samples: Samples, on_step: OnStep
) -> Observed:
    """The range statistics of everything that the plan puts in codes."""
    values = list(dict.fromkeys(v for held in plan.placement.sources(runner.network).values() for v in held))
    return observe(
        runner,
        values,
        samples.batches(BATCH),
        lambda n: on_step(Step("calibrate", n, samples.count)),
        is_counted=not all(isinstance(rule, ExtremesRule) for rule in recipe.ranges),
    )


def _without_samples(
    source: OnnxSource, recipe: NetworkRecipe, out: Path, made_of: dict[str, Any], on_step: OnStep
) -> None:
    """The run where nothing is known of what the network reads: no range, no trial, weights to nearest."""
    edited, observed = without_trials(source, recipe, out), Observed()
    plan = plan_network(edited.network(), recipe)
    points, choices = points_of_each(plan, edited.network(), observed, recipe.ranges)[0]
    task = Task(edited, recipe, plan, points)
    walked = round_weights(task, on_step)
    notes = found_notes(task, walked, observed, Ranges(points, choices, ()))
    finish(task, walked, made_of | {"edits": {}, "relief": []} | notes, out)


def _made_of(source: OnnxSource, recipe: NetworkRecipe, samples: Samples | None) -> dict[str, Any]:
    """What identifies a run: entries of the manifest."""
    told = {"count": 0, "digest": None, "preprocessing": "none given"}
    if samples is not None:
        told = {"count": samples.count, "digest": samples.digest(), "preprocessing": samples.preprocessing}
    return {
        "version": __version__,
        "recipe": to_plain(recipe),
        "source": {"digest": source.digest(), "notes": list(source.notes)},
        "samples": told,
    }


__all__ = ["NetworkRecipe", "QuantizedNetwork", "Step", "open_network", "quantize_network"]
