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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

from bitwright.calib import ExtremesRule, LeastEffect
from bitwright.engine.checkpoint_forms import EFFECTS, OBSERVED, ranges_form
from bitwright.engine.effects import measure_effects
from bitwright.engine.finish import finish, found_notes
from bitwright.engine.folder import CHECKPOINTS, RunError, claim, explained
from bitwright.engine.goal import Goal, LeastSqnr, Pursuit, Rounded
from bitwright.engine.judge import BATCH, Judge, Ranges, best_ranges, held_out
from bitwright.engine.learn import learn_rounding
from bitwright.engine.observe import Observed, observe, points_of_each
from bitwright.engine.portions import roomy
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

GOAL_SAMPLES = 64  # of all, that a goal is held against beside the held-out ones


def quantize_network(
    source: OnnxSource,
    recipe: NetworkRecipe,
    out: Path,
    samples: Samples | None,
    on_step: OnStep = ignore,
    goal: Goal | None = None,
) -> QuantizedNetwork:
    """Quantize a network into the folder `out`; one that is finished there already is opened again.

    The same call after a kill goes on where that one was; a folder that holds another run is refused. `samples` None:
    weights are rounded to nearest, which is possible where no activation needs a range. `goal`: what the outputs have
    to be beside what the recipe asks of them; the manifest says under `goal` whether they are. Raises ValueError on bad
    input, before anything is written if it can.

    Memory: the float network, one batch's values, and the live values of 64 samples at the widest place; of a network
    whose values for 16 samples take more than 512 MiB somewhere (`roomy`), at the widest place with weights to round.
    """
    if samples is None and recipe.needs_samples:
        raise ValueError(
            "static activations and edits need samples: give some, or take a recipe whose activations are found "
            "as the network runs (int8_dynamic) or stay in float (w4a16, w8a16)"
        )
    if source.path.resolve().parent == out.resolve():
        raise RunError(f"{out} is where {source.path.name} lies: give another output folder")
    goals: list[Goal] = [] if recipe.min_sqnr is None else [LeastSqnr(recipe.min_sqnr)]
    goals += [] if goal is None else [goal]
    if goals and samples is None:
        raise ValueError("whether the outputs are good enough is seen on samples: give some, or ask for no goal")
    made_of = _made_of(source, recipe, samples) | {"asked": [dict(one.told) for one in goals]}
    with only_run(out), explained(out):
        claim(out, text_digest(made_of), before=(EXPORTED,))
        if not is_made(out, made_of):
            (out / MANIFEST).unlink(missing_ok=True)
            if samples is None:
                _without_samples(source, recipe, out, made_of, on_step)
            else:
                samples = roomy(OnnxRunner(source), samples)
                _Run(source, recipe, out, samples, on_step, goals).carry_out(made_of)
        forget(out / CHECKPOINTS)
        return open_network(out)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """A run with samples."""

    source: OnnxSource
    recipe: NetworkRecipe
    out: Path
    samples: Samples
    on_step: OnStep
    goals: Sequence[Goal]

    def carry_out(self, made_of: dict[str, Any]) -> None:
        """The run itself, phase by phase."""
        files = [file_digest(path) for path in self.source.files()]  # an export may come out otherwise
        key = text_digest([made_of, files])
        checkpoints = Checkpoints(self.out / CHECKPOINTS, key, lambda note: self.on_step(Step("resume", 0, 0, note)))
        prepared = prepare(self.source, self.recipe, self.samples, self.out, checkpoints, self.on_step)
        plan = plan_network(prepared.source.network(), self.recipe)
        runner = OnnxRunner(prepared.source)
        observed = self._observed(prepared.source, plan, checkpoints)
        judge = Judge(runner, held_out(self.samples), self.on_step)
        rules = self.recipe.ranges
        choose = partial(best_ranges, plan, runner, observed, rules, judge)
        ranges = checkpoints.once("ranges", choose, ranges_form(plan, rules))
        relief = Relief(runner, judge, observed, lambda reasons: plan_network(runner.network, self.recipe, reasons))
        relieved = Relieved(plan, ranges)
        if self.recipe.relief and ranges.points:
            relieved = relief.relieve(plan, ranges, checkpoints)

        def rounded(now: Relieved) -> Rounded:
            runner.close()
            task = Task(prepared.source, self.recipe, now.plan, now.ranges.points)
            return self._rounded(task, judge, checkpoints)

        if self.goals:
            judges = (judge, Judge(runner, self.samples.dealt(GOAL_SAMPLES, BATCH), self.on_step))
            pursuit = Pursuit(self.goals, relief, judges, checkpoints, rounded, self.on_step)
            relieved, found, told = pursuit.pursue(relieved)
        else:
            found, told = rounded(relieved), None
        steps = [to_plain(step) for step in relieved.steps]
        notes = made_of | {"edits": prepared.edits, "relief": steps, "goal": told} | found.notes
        told_of = found_notes(found.task, found.walked, observed, relieved.ranges)
        finish(found.task, found.walked, notes | told_of, self.out)

    def _observed(self, prepared: OnnxSource, plan: NetworkPlan, checkpoints: Checkpoints) -> Observed:
        """Range statistics, and gradients where a rule wants them."""
        observed = checkpoints.once("calibrate", lambda: self._watched(prepared, plan), OBSERVED)
        if any(isinstance(rule, LeastEffect) for rule in self.recipe.ranges) and observed.histograms:
            self.on_step(Step("gradients", 0, 1))
            observed.effects = checkpoints.once(
                "gradients", lambda: measure_effects(prepared, plan.placement, observed, self.samples), EFFECTS
            )
        return observed

    def _watched(self, prepared: OnnxSource, plan: NetworkPlan) -> Observed:
        """The range statistics of what the plan puts in codes, and of what a plan with more in float may."""
        network, integer = prepared.network(), plan.placement.integer
        values = [value for held in plan.placement.sources(network).values() for value in held]
        if self.goals and values:
            ends = [name for node in network.nodes if node.name in integer for name in (*node.inputs, *node.outputs)]
            floats = [name for name in ends if name and network.values[name].dtype == "float32"]
            values += [name for name in floats if name not in network.constants]
        return observe(
            OnnxRunner(prepared),
            list(dict.fromkeys(values)),
            self.samples.batches(BATCH),
            lambda n: self.on_step(Step("calibrate", n, self.samples.count)),
            is_counted=not all(isinstance(rule, ExtremesRule) for rule in self.recipe.ranges),
        )

    def _rounded(self, task: Task, judge: Judge, checkpoints: Checkpoints) -> Rounded:
        """Weights in codes, learned where the recipe asks for it."""
        walked = walk_weights(task, self.samples, checkpoints, self.on_step)
        if self.recipe.learn is None:
            return Rounded(task, walked, {})
        learned = learn_rounding(task, walked, self.samples, judge, checkpoints, self.on_step)
        return Rounded(replace(task, points=learned.points), learned.walked, {"learned": learned.notes})


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
    finish(task, walked, made_of | {"edits": {}, "relief": [], "goal": None} | notes, out)


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
