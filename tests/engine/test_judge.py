"""The rule whose outputs are best is taken, judged on samples that made no range."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitwright.calib import Auto, Average, MinMaxRange, Percentile, RangeRule
from bitwright.engine.judge import Judge, best_ranges, held_out, noise_over_signal
from bitwright.engine.observe import Observed, is_held_out, observe, points_of_each
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.recipe.network import NetworkPlan, int8, plan_network
from bitwright.store.sample_set import Samples, Stacking
from networks import exported, network, sample


def samples_of(tensors: dict[str, Tensor], fixed: int | None = None) -> Samples:
    def read(index: int) -> tuple[str, dict[str, Tensor]]:
        return str(index), {name: held[index : index + 1] for name, held in tensors.items()}

    return Samples(len(next(iter(tensors.values()))), "given", Stacking(True, fixed), read)


def numbered(count: int, fixed: int | None = None) -> Samples:
    return samples_of({"x": torch.arange(float(count))[:, None]}, fixed)


def places(samples: Samples) -> list[int]:
    return sorted(int(x) for batch in samples.batches(16) for x in batch["x"])


def test_noise_over_signal_is_that_of_every_sample_by_hand() -> None:
    wanted = [torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[2.0, 2.0]])]
    found = [torch.tensor([[3.0, 4.5], [1.1, 0.0]]), torch.tensor([[2.0, 2.0]])]
    assert noise_over_signal(wanted, found).tolist() == pytest.approx([0.25 / 25, 0.01, 0.0], rel=1e-6)


def test_a_sample_with_hardly_any_signal_does_not_decide() -> None:
    wanted, found = [torch.tensor([[1.0], [0.0]])], [torch.tensor([[1.1], [0.001]])]
    assert noise_over_signal(wanted, found).tolist() == pytest.approx([0.01, 1e-6 / (1e-3 / 2)], rel=1e-6)


def test_an_output_of_another_shape_is_all_error_and_an_empty_one_says_nothing() -> None:
    wanted, found = [torch.ones(3, 2), torch.ones(0, 2)], [torch.ones(2, 2), torch.ones(0, 2)]
    assert noise_over_signal(wanted, found).tolist() == [1.0, 1.0, 1.0]


def test_judges_are_samples_that_made_no_range_from_all_places() -> None:
    many = places(held_out(numbered(1024)))
    assert len(many) == 32 and all(is_held_out(place) for place in many)
    assert min(many) < 64 and max(many) >= 960


def test_where_these_are_few_others_join_them() -> None:
    assert sorted(places(held_out(numbered(5)))) == [0, 1, 2, 3, 4]
    found = places(held_out(numbered(48)))
    assert len(set(found)) == 32 and {4, 10, 22, 25, 37, 43} <= set(found)
    joining = sorted(set(found) - {4, 10, 22, 25, 37, 43})
    assert joining[0] < 4 and joining[-1] > 43 and max(b - a for a, b in pairwise(joining)) <= 4


def test_judges_fill_the_batches_of_a_network_that_fixes_them() -> None:
    assert [len(batch["x"]) for batch in held_out(numbered(100, fixed=5)).batches(16)] == [5] * 6
    assert [len(batch["x"]) for batch in held_out(numbered(20, fixed=10)).batches(16)] == [10, 10]
    assert [len(batch["x"]) for batch in held_out(numbered(80, fixed=40)).batches(16)] == [40]


def residual(tmp_path: Path, rules: tuple[RangeRule, ...]) -> tuple[NetworkPlan, OnnxRunner, Observed, Judge]:
    runner = OnnxRunner(exported(network("residual", 0), tmp_path, "residual"))
    plan = plan_network(runner.network, int8())
    samples = samples_of({runner.network.inputs[0]: sample(network("residual", 0), 48, 0)[0]})
    values = [v for held in plan.placement.sources(runner.network).values() for v in held]
    observed = observe(runner, list(dict.fromkeys(values)), samples.batches(16))
    return plan, runner, observed, Judge(runner, held_out(samples))


def test_the_best_of_all_rules_is_taken(tmp_path: Path) -> None:
    rules = (Percentile(60.0), MinMaxRange(), Auto(), Auto(average=Average.NOISE))
    plan, runner, observed, judge = residual(tmp_path, rules)
    ranges = best_ranges(plan, runner, observed, rules, judge)
    noise = dict(ranges.tried)
    assert tuple(noise) == rules and ranges.rule == min(rules, key=noise.__getitem__)
    ((expected, _),) = points_of_each(plan, runner.network, observed, (ranges.rule,))
    assert {n: (p.low, p.high) for n, p in ranges.points.items()} == {n: (p.low, p.high) for n, p in expected.items()}
    assert noise[rules[0]] > noise[rules[1]]  # it clips four values in ten


def test_rules_that_agree_are_simulated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = (MinMaxRange(), Percentile(100.0), Percentile(60.0))
    plan, runner, observed, judge = residual(tmp_path, rules)
    simulated: list[float] = []
    real = Judge.noise

    def counted(self: Judge, *given: object) -> float:
        simulated.append(real(self, *given))  # type: ignore[arg-type]
        return simulated[-1]

    monkeypatch.setattr(Judge, "noise", counted)
    ranges = best_ranges(plan, runner, observed, rules, judge)
    assert len(simulated) == 2 and ranges.tried[0][1] == ranges.tried[1][1] and ranges.rule == rules[0]


def test_a_network_without_points_has_no_noise(tmp_path: Path) -> None:
    _, runner, _, judge = residual(tmp_path, ())
    assert judge.noise(runner, {}) < 1e-10


def test_the_one_of_eight_that_judges_is_at_every_place_in_turn() -> None:
    apart = [place for place in range(64) if is_held_out(place)]
    assert [place // 8 for place in apart] == list(range(8))
    assert sorted(place % 8 for place in apart) == list(range(8))
