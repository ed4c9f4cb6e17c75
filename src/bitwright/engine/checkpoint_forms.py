"""How the results of the phases of a run are taken apart for its checkpoints, and put together again.

What follows from the plan (specs, points, names of nodes) is not stored: it is handed to the form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bitwright.calib import Auto, Choice, Effect, Extremes, Finding, Histogram, RangeRule
from bitwright.calib.auto import Trial
from bitwright.calib.density import Density
from bitwright.engine.judge import Ranges
from bitwright.engine.layer import Rounded
from bitwright.engine.observe import Observed, points_with
from bitwright.numerics import Params, QTensor, Spec
from bitwright.numerics.plain import from_plain, to_plain
from bitwright.recipe.network import NetworkPlan
from bitwright.solvers import Activation
from bitwright.solvers.reconstruction import Choice as Chosen
from bitwright.solvers.reconstruction import Reconstructed
from bitwright.store.checkpoints import Form, Parts
from bitwright.store.tensors import flatten, gather

_INT32 = 2**31 - 1


def _observed_apart(found: Observed) -> Parts:
    """The histograms of a value follow one another in a few long tensors; there may be a hundred of them."""
    arrays: dict[str, Tensor] = {}
    for name, histogram in found.histograms.items():
        parts = [one.to_tensors() for one in (histogram, *found.held_out[name])]
        counts = torch.cat([part["counts"] for part in parts])
        arrays[f"counts {name}"] = counts.int() if int(counts.max()) <= _INT32 else counts
        arrays[f"grids {name}"] = torch.stack([part["grid"] for part in parts])
        arrays[f"samples {name}"] = torch.cat([part["samples"] for part in parts])
        arrays[f"lengths {name}"] = torch.tensor([[len(part["counts"]), len(part["samples"])] for part in parts])
    arrays |= {f"extremes {name}": held.samples.table() for name, held in found.extremes.items()}
    data = {
        "counted": list(found.histograms),
        "bounded": list(found.extremes),
        "count": found.count,
        "findings": to_plain(found.findings),
    }
    return data, arrays


def _observed_together(data: Any, arrays: Mapping[str, Tensor]) -> Observed:
    found = Observed(count=data["count"])
    found.findings = from_plain(data["findings"], tuple[Finding, ...], {"Finding": Finding}, "findings")
    for name in data["counted"]:
        found.histograms[name], *found.held_out[name] = _histograms(name, arrays)
    for name in data["bounded"]:
        found.extremes[name] = Extremes()
        found.extremes[name].samples.add(arrays[f"extremes {name}"])
        found.held_out[name] = []
    return found


def _histograms(name: str, arrays: Mapping[str, Tensor]) -> list[Histogram]:
    lengths = arrays[f"lengths {name}"].T.tolist()
    counts, samples = (arrays[f"{what} {name}"].split(sizes) for what, sizes in zip(_SPLIT, lengths, strict=True))
    return [
        Histogram.from_tensors({"counts": one, "grid": grid, "samples": rows})
        for one, grid, rows in zip(counts, arrays[f"grids {name}"], samples, strict=True)
    ]


_SPLIT = ("counts", "samples")
OBSERVED = Form(_observed_apart, _observed_together)


def _effects_apart(found: Mapping[str, Effect]) -> Parts:
    arrays: dict[str, Tensor] = {}
    for name, held in found.items():
        parts = (held.weights.edges, held.weights.mass, held.edges, held.pulls, held.moments)
        arrays |= {f"{what} {name}": part for what, part in zip(_EFFECT, parts, strict=True)}
    return list(found), arrays


def _effects_together(data: Any, arrays: Mapping[str, Tensor]) -> dict[str, Effect]:
    found = {}
    for name in data:
        weighted, mass, edges, pulls, moments = (arrays[f"{what} {name}"] for what in _EFFECT)
        found[name] = Effect(Density(weighted, mass), edges, pulls, moments)
    return found


_EFFECT = ("weighted", "mass", "edges", "pulls", "moments")
EFFECTS: Form[Mapping[str, Effect]] = Form(_effects_apart, _effects_together)


def ranges_form(plan: NetworkPlan, rules: Sequence[RangeRule]) -> Form[Ranges]:
    """Ranges as the numbers of every trial, whose rule is one of these or of those that they try."""
    known = [*rules, *(part for rule in rules if isinstance(rule, Auto) for part in rule.rules)]

    def plain(trial: Trial) -> list[Any]:
        figures = [trial.low, trial.high, trial.sqnr, trial.noise, trial.clipped]
        return [known.index(trial.rule), *figures, trial.is_refused]

    def apart(ranges: Ranges) -> Parts:
        choices = {
            group: [plain(choice.taken), [plain(trial) for trial in choice.trials]]
            for group, choice in ranges.choices.items()
        }
        return {"choices": choices, "tried": [[known.index(rule), noise] for rule, noise in ranges.tried]}, {}

    def trial_of(held: list[Any]) -> Trial:
        return Trial(known[held[0]], *held[1:])

    def together(data: Any, _: Mapping[str, Tensor]) -> Ranges:
        choices = {
            group: Choice(trial_of(taken), tuple(map(trial_of, trials)))
            for group, (taken, trials) in data["choices"].items()
        }
        return Ranges(
            points_with(plan, choices), choices, tuple((known[place], noise) for place, noise in data["tried"])
        )

    return Form(apart, together)


def rounded_form(spec: Spec) -> Form[Rounded]:
    """A weight in codes of this spec, with what was found about it."""

    def apart(found: Rounded) -> Parts:
        arrays = flatten("weight", found.qtensor)
        if found.offset is not None:
            arrays["offset"] = found.offset
        figures = {"error": found.error, "nearest": found.nearest, "notes": list(found.notes)}
        return {"shape": list(found.qtensor.shape), **figures}, arrays

    def together(data: Any, arrays: Mapping[str, Tensor]) -> Rounded:
        rows, cols = data["shape"]
        qtensor = gather("weight", spec, (rows, cols), arrays)
        return Rounded(qtensor, arrays.get("offset"), data["error"], data["nearest"], tuple(data["notes"]))

    return Form(apart, together)


def learned_form(weights: Mapping[str, QTensor], points: Mapping[str, Spec]) -> Form[Reconstructed]:
    """What learning made of a segment: of these weights (as they were before) and points of these specs."""
    places = {name: f"weight {place}" for place, name in enumerate(weights)}  # no name is the beginning of another

    def apart(found: Reconstructed) -> Parts:
        arrays: dict[str, Tensor] = {f"bias {name}": bias for name, bias in found.choice.biases.items()}
        for name, qtensor in found.choice.weights.items():
            arrays |= flatten(places[name], qtensor)
        for name, point in found.choice.points.items():
            arrays[f"scale {name}"] = point.params.scale
            if point.params.zero is not None:
                arrays[f"zero {name}"] = point.params.zero
        figures = {"before": found.before, "after": found.after, "steps": found.steps}
        return {**figures, "kept": found.kept, "notes": list(found.notes)}, arrays

    def together(data: Any, arrays: Mapping[str, Tensor]) -> Reconstructed:
        choice = Chosen(
            {name: gather(places[name], old.spec, old.shape, arrays) for name, old in weights.items()},
            {name.removeprefix("bias "): bias for name, bias in arrays.items() if name.startswith("bias ")},
            {
                name: Activation(spec, Params(arrays[f"scale {name}"], arrays.get(f"zero {name}")))
                for name, spec in points.items()
            },
        )
        return Reconstructed(choice, data["before"], data["after"], data["steps"], data["kept"], tuple(data["notes"]))

    return Form(apart, together)
