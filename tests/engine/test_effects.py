"""Gradients foretell what codes at each point cost the outputs; simulation says what they do."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from bitwright.calib import MinMaxRange, total_noise
from bitwright.engine import effects
from bitwright.engine.effects import measure_effects
from bitwright.engine.judge import Judge
from bitwright.engine.observe import Observed, observe, points_of_each
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.recipe.network import NetworkPlan, int8, plan_network
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.sample_set import Samples, Stacking
from networks import exported, network, sample

COUNT = 48


def seen(name: str, folder: Path) -> tuple[OnnxSource, NetworkPlan, Observed, Samples]:
    source = exported(network(name, 0), folder, name)
    runner = OnnxRunner(source)
    held = sample(network(name, 0), COUNT, 0)[0]

    def read(index: int) -> tuple[str, dict[str, Tensor]]:
        return str(index), {runner.network.inputs[0]: held[index : index + 1]}

    samples = Samples(COUNT, "random", Stacking(True, None), read)
    plan = plan_network(runner.network, int8())
    values = [v for some in plan.placement.sources(runner.network).values() for v in some]
    return source, plan, observe(runner, list(dict.fromkeys(values)), samples.batches(16)), samples


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_the_foretold_noise_of_each_point_is_near_the_simulated_one(tmp_path: Path, name: str) -> None:
    source, plan, observed, samples = seen(name, tmp_path)
    found = measure_effects(source, plan.placement, observed, samples)
    runner = OnnxRunner(source)
    points, _ = points_of_each(plan, runner.network, observed, (MinMaxRange(),))[0]
    judge = Judge(runner, samples)
    assert set(found) == {p.value for p in plan.placement.points if p.value in observed.histograms}
    simulated = {name: judge.noise(runner, {name: points[name]}) for name in found}
    total, foretold = sum(simulated.values()), 0.0
    for value, noise in simulated.items():
        point = points[value]
        assert point.params is not None
        cost = float(total_noise([found[value]], point.spec, point.params))
        foretold += cost
        if noise > total / 10:  # of small ones a few numbers decide
            assert 1 / 3 < cost / noise < 3, value
    assert 0.6 < foretold / total < 1.6


def test_batches_in_smaller_parts_give_as_many_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, plan, observed, samples = seen("residual", tmp_path)
    monkeypatch.setattr(effects, "ROOM", 1)
    small = measure_effects(source, plan.placement, observed, samples)
    assert {len(effect.pulls) for effect in small.values()} == {COUNT - COUNT // 8}


def test_nothing_is_known_where_an_operator_has_no_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, plan, observed, samples = seen("residual", tmp_path)
    monkeypatch.setattr(effects, "can_interpret", lambda node: node.op != "Relu")
    assert measure_effects(source, plan.placement, observed, samples) == {}
