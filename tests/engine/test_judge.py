"""The rule whose outputs are best is taken, judged on samples that made no range."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.calib import Auto, MinMaxRange, Percentile
from bitwright.engine import judge
from bitwright.engine.judge import best_points, held_out, sample_sqnr
from bitwright.engine.observe import observe, points_of
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.recipe.network import int8, plan_network
from networks import exported, network, sample


def test_the_ratio_is_that_of_every_sample_by_hand() -> None:
    wanted = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 2.0]])
    found = torch.tensor([[3.0, 4.5], [1.1, 0.0], [2.0, 2.0]])
    assert sample_sqnr(wanted, found).tolist() == pytest.approx([20.0, 20.0, 100.0], abs=1e-4)


def test_judges_are_the_samples_that_made_no_range() -> None:
    batches = [{"x": torch.arange(16.0)[:, None] + 16 * i} for i in range(3)]
    assert torch.cat([b["x"] for b in held_out(batches)]).flatten().tolist() == [7, 15, 23, 31, 39, 47]


def test_small_batches_judge_whole() -> None:
    batches = [{"x": torch.zeros(3, 2)}, {"x": torch.ones(3, 2)}]
    assert [len(b["x"]) for b in held_out(batches)] == [3, 3]


def test_the_best_of_all_rules_is_taken(tmp_path: Path) -> None:
    source = exported(network("residual", 0), tmp_path, "residual")
    runner = OnnxRunner(source)
    plan = plan_network(runner.network, int8())
    name = runner.network.inputs[0]
    batches = [{name: sample(network("residual", 0), 16, seed)[0]} for seed in range(3)]
    values = [v for held in plan.placement.sources(runner.network).values() for v in held]
    observed = observe(runner, list(dict.fromkeys(values)), batches)
    rules = (Percentile(60.0), MinMaxRange(), Auto())
    points, _, tried = best_points(plan, runner, observed, rules, batches)
    assert set(tried) == {"Percentile", "MinMaxRange", "Auto"}
    best = max(rules, key=lambda rule: tried[type(rule).__name__])
    expected, _ = points_of(plan, runner.network, observed, best)
    assert {n: (p.low, p.high) for n, p in points.items()} == {n: (p.low, p.high) for n, p in expected.items()}
    assert tried["Percentile"] < tried["MinMaxRange"]  # it clips four values in ten


def test_one_rule_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = exported(network("residual", 0), tmp_path, "residual")
    runner = OnnxRunner(source)
    plan = plan_network(runner.network, int8())
    batch = {runner.network.inputs[0]: sample(network("residual", 0), 16, 0)[0]}
    values = [v for held in plan.placement.sources(runner.network).values() for v in held]
    observed = observe(runner, list(dict.fromkeys(values)), [batch])
    monkeypatch.setattr(judge, "_output_sqnr", None)
    assert best_points(plan, runner, observed, (MinMaxRange(),), [batch])[2] == {}
