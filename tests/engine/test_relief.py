"""Relief: the one value that spoils the outputs is found, and what is around it stays float if that is cheap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from bitwright.calib import MinMaxRange
from bitwright.engine.judge import Judge, Ranges, best_ranges, held_out
from bitwright.engine.observe import observe
from bitwright.engine.relief import Relief
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.numerics import Params
from bitwright.recipe.network import NetworkPlan, int8, plan_network
from bitwright.store.checkpoints import Checkpoints
from bitwright.store.sample_set import Samples, Stacking
from networks import exported, network, sample


def started(tmp_path: Path, is_counted: bool = True) -> tuple[Relief, NetworkPlan, Ranges]:
    """The residual network with ranges from extremes; `is_counted`: histograms are known beside them."""
    runner = OnnxRunner(exported(network("residual", 0), tmp_path, "residual"))
    held: Tensor = sample(network("residual", 0), 48, 0)[0]

    def read(index: int) -> tuple[str, dict[str, Tensor]]:
        return str(index), {runner.network.inputs[0]: held[index : index + 1]}

    samples = Samples(48, "random", Stacking(True, None), read)
    plan = plan_network(runner.network, int8())
    values = [v for some in plan.placement.sources(runner.network).values() for v in some]
    observed = observe(runner, list(dict.fromkeys(values)), samples.batches(16), is_counted=is_counted)
    judge = Judge(runner, held_out(samples))
    relief = Relief(runner, judge, observed, lambda reasons: plan_network(runner.network, int8(), reasons))
    return relief, plan, best_ranges(plan, runner, observed, (MinMaxRange(),), judge)


def fresh(folder: Path) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", "a run")


def spoiled(ranges: Ranges, value: str) -> Ranges:
    """The same with a step sixteen times as large at one value."""
    point = ranges.points[value]
    coarse = replace(point, params=Params(point.params.scale * 16, point.params.zero))
    return replace(ranges, points={**ranges.points, value: coarse})


def read_by_last(relief: Relief) -> str:
    """What the cheap last operator reads."""
    return relief.runner.network.nodes[-1].inputs[0]


@pytest.mark.parametrize("is_counted", [True, False])
def test_a_value_that_makes_most_of_the_error_is_relieved_and_named(is_counted: bool, tmp_path: Path) -> None:
    relief, plan, ranges = started(tmp_path, is_counted)
    value, last = read_by_last(relief), relief.runner.network.nodes[-1]
    bad = spoiled(ranges, value)
    found = relief.relieve(plan, bad, fresh(tmp_path))
    assert last.name in found.reasons and value in found.reasons[last.name] and "%" in found.reasons[last.name]
    assert last.name in found.steps[0].nodes and value in found.steps[0].values
    assert last.name in found.plan.placement.floats and last.name not in found.plan.placement.integer
    assert last.inputs[1] not in [step.name for step in found.plan.weights]
    before = relief.judge.noise(relief.runner, bad.points)
    assert relief.judge.noise(relief.runner, found.ranges.points) <= 0.75 * before


def test_outputs_that_are_good_enough_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relief, plan, ranges = started(tmp_path)
    bad = spoiled(ranges, read_by_last(relief))
    noise = relief.judge.noise(relief.runner, bad.points)
    monkeypatch.setattr("bitwright.engine.relief.QUIET", 1.01 * noise)
    assert relief.relieve(plan, bad, fresh(tmp_path)).steps == ()


def test_what_takes_more_than_a_quarter_of_the_products_stays_in_integers(tmp_path: Path) -> None:
    relief, plan, ranges = started(tmp_path)
    costs = relief._products()
    dear = next(node for node in relief.runner.network.nodes if costs.get(node.name, 0) > sum(costs.values()) / 4)
    found = relief.relieve(plan, spoiled(ranges, dear.inputs[0]), fresh(tmp_path))
    assert dear.name not in found.reasons and dear.name in found.plan.placement.integer


def test_where_the_error_comes_from_everywhere_nothing_is_relieved(tmp_path: Path) -> None:
    relief, _, ranges = started(tmp_path)
    alone = [relief.judge.noise(relief.runner, {name: point}) for name, point in ranges.points.items()]
    assert max(alone) < relief.judge.noise(relief.runner, ranges.points) * 0.9
    culprits = relief._culprits(ranges.points, 3.1 * max(alone))
    assert culprits == []


def test_relief_that_does_not_help_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relief, plan, ranges = started(tmp_path)
    monkeypatch.setattr(Judge, "noise", lambda self, runner, points: 1.0 if points else 0.0)
    assert relief.relieve(plan, ranges, fresh(tmp_path)).reasons == {}


@pytest.mark.parametrize("guilty", [1, 2, 3])
def test_the_few_values_that_make_the_error_are_found_by_halving(
    guilty: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relief, _, ranges = started(tmp_path)
    names = list(ranges.points)[::2][:guilty]
    monkeypatch.setattr(Judge, "noise", lambda self, runner, points: sum(name in points for name in names) / guilty)
    assert {name for name, _ in relief._culprits(ranges.points, 1.0)} == set(names)


def test_where_any_value_brings_about_all_of_the_error_none_is_named_and_few_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relief, _, ranges = started(tmp_path)
    tried: list[int] = []
    monkeypatch.setattr(Judge, "noise", lambda self, runner, points: tried.append(len(points)) or 1.0)
    assert len(ranges.points) >= 4
    assert relief._culprits(ranges.points, 1.0) == []
    assert len(tried) <= 6
