"""What checkpoints hold comes back as it was: what phases find, taken apart, put together, and taken apart again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.calib import Auto, Average, Effect, Histogram, LeastEffect, MinMaxRange, Percentile
from bitwright.calib.density import Density
from bitwright.engine.checkpoint_forms import EFFECTS, OBSERVED, learned_form, ranges_form, rounded_form
from bitwright.engine.judge import BATCH, Judge, best_ranges, held_out
from bitwright.engine.layer import Rounded
from bitwright.engine.observe import observe
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.numerics import PER_ROW, PER_TENSOR, Int, MinMax, Params, QTensor, Spec, quantize
from bitwright.recipe.network import NetworkRecipe, plan_network
from bitwright.solvers import Activation
from bitwright.solvers.reconstruction import Choice, Reconstructed
from bitwright.store.onnx_source import OnnxSource
from engine.tiny_network import model, samples_of

RULES = (MinMaxRange(), Auto(average=Average.NOISE), Percentile(99.9), LeastEffect())
ROWS = Spec(Int(4), PER_ROW)


def qtensor(seed: int) -> QTensor:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    return quantize(weight, ROWS, MinMax().fit(ROWS, weight))


@pytest.mark.parametrize("is_counted", [True, False])
def test_what_was_observed_comes_back_and_gives_the_same_ranges(is_counted: bool, tmp_path: Path) -> None:
    source = OnnxSource.open(model(tmp_path))
    samples, runner = samples_of(source), OnnxRunner(source)
    rules = RULES if is_counted else RULES[:1]
    plan = plan_network(source.network(), NetworkRecipe(ranges=rules))
    values = list(dict.fromkeys(v for held in plan.placement.sources(runner.network).values() for v in held))
    observed = observe(runner, values, samples.batches(BATCH), is_counted=is_counted)
    back = OBSERVED.together(*OBSERVED.apart(observed))
    assert (back.count, back.findings) == (observed.count, observed.findings)
    for name, histogram in observed.histograms.items():
        pairs = zip((histogram, *observed.held_out[name]), (back.histograms[name], *back.held_out[name]), strict=True)
        assert all(_are_equal(one, other) for one, other in pairs)
    judge = Judge(runner, held_out(samples))
    before, after = (best_ranges(plan, runner, one, rules, judge) for one in (observed, back))
    assert before.tried == after.tried
    form = ranges_form(plan, rules)
    again = form.together(*form.apart(before))
    assert again.rule == before.rule and again.tried == before.tried
    assert {name: (point.low, point.high, point.scale, point.zero) for name, point in again.points.items()} == {
        name: (point.low, point.high, point.scale, point.zero) for name, point in before.points.items()
    }
    # as text, because measures that were not taken are NaN, which equals nothing
    assert {name: str(choice) for name, choice in again.choices.items()} == {
        name: str(choice) for name, choice in before.choices.items()
    }


def test_effects_come_back_and_cost_the_same() -> None:
    edges = torch.linspace(-1, 1, 9, dtype=torch.float64)
    weights, sums = Density(edges, torch.arange(8.0, dtype=torch.float64)), torch.arange(10.0).reshape(2, 5)
    effect = Effect(weights, edges[::2], sums, -sums)
    back = EFFECTS.together(*EFFECTS.apart({"a": effect, "b": effect}))
    assert list(back) == ["a", "b"]
    spec, params = Spec(Int(4), PER_TENSOR), Params(torch.tensor([[0.05]]))
    assert float(back["b"].noise(spec, params)) == float(effect.noise(spec, params)) > 0


def _are_equal(one: Histogram, other: Histogram) -> bool:
    mine, its = one.to_tensors(), other.to_tensors()
    return mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)


@pytest.mark.parametrize("offset", [None, torch.arange(5.0)])
def test_a_rounded_weight_comes_back(offset: torch.Tensor | None) -> None:
    found = Rounded(qtensor(0), offset, 0.25, 0.5, ("a note",))
    form = rounded_form(ROWS)
    back = form.together(*form.apart(found))
    assert torch.equal(back.qtensor.dequantize(), found.qtensor.dequantize()) and back.qtensor.spec == ROWS
    assert (back.error, back.nearest, back.notes) == (0.25, 0.5, ("a note",))
    assert back.offset is None if offset is None else torch.equal(back.offset, offset)


def test_a_learned_segment_comes_back() -> None:
    spec = Spec(Int(8, signed=False), PER_TENSOR, zero=Spec(Int(8, signed=False)))
    points = {
        "a": Activation(spec, Params(torch.tensor([[0.1]]), torch.tensor([[3.0]]))),
        "b": Activation(spec, Params(torch.tensor([[0.2]]))),
    }
    weights = {"one": qtensor(1), "one.scale": qtensor(2)}
    found = Reconstructed(Choice(weights, {"one": torch.ones(3)}, points), 0.5, 0.25, 8, True, ("kept",))
    form = learned_form({name: qtensor(0) for name in weights}, dict.fromkeys(points, spec))
    back = form.together(*form.apart(found))
    assert (back.before, back.after, back.steps, back.kept, back.notes) == (0.5, 0.25, 8, True, ("kept",))
    for name, held in weights.items():
        assert torch.equal(back.choice.weights[name].dequantize(), held.dequantize())
    assert back.choice.biases.keys() == {"one"} and torch.equal(back.choice.biases["one"], torch.ones(3))
    assert float(back.choice.points["a"].params.scale) == float(points["a"].params.scale)
    assert back.choice.points["a"].params.zero is not None and back.choice.points["b"].params.zero is None
