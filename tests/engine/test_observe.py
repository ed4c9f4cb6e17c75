"""The calibration pass: extremes alone where rules ask for no more, with the same points; bad data are named."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor

from bitwright.calib import Extremes, MeanMinMax, MinMaxRange, MovingAverage
from bitwright.engine.network import quantize_network
from bitwright.engine.observe import HELD_OUT, CalibrationError, Observed, is_held_out, observe, points_of_each
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.recipe.network import NetworkPlan, NetworkRecipe, int8, plan_network
from bitwright.store.network_artifact import read_manifest
from engine.test_network import samples_for
from networks import exported, network, sample

RULES = (MinMaxRange(), MeanMinMax(), MovingAverage())


def watched(tmp_path: Path, name: str) -> tuple[NetworkPlan, OnnxRunner, list[str], torch.Tensor]:
    runner = OnnxRunner(exported(network(name), tmp_path))
    plan = plan_network(runner.network, int8())
    values = [value for held in plan.placement.sources(runner.network).values() for value in held]
    return plan, runner, list(dict.fromkeys(values)), sample(network(name), 21)[0]


def seen(runner: OnnxRunner, values: list[str], x: torch.Tensor, size: int, is_counted: bool) -> Observed:
    (name,) = runner.network.inputs
    return observe(runner, values, [{name: part} for part in x.split(size)], is_counted=is_counted)


@pytest.mark.parametrize("name", ["residual", "squeeze", "attention"])
def test_points_from_extremes_are_those_from_histograms(tmp_path: Path, name: str) -> None:
    plan, runner, values, x = watched(tmp_path, name)
    counted = points_of_each(plan, runner.network, seen(runner, values, x, 8, True), RULES)
    bounded = points_of_each(plan, runner.network, seen(runner, values, x, 8, False), RULES)
    for (wanted, _), (found, choices) in zip(counted, bounded, strict=True):
        assert {n: (p.low, p.high) for n, p in found.items()} == {n: (p.low, p.high) for n, p in wanted.items()}
        assert all(math.isnan(choice.taken.sqnr) for choice in choices.values())


def test_extremes_leave_out_what_is_held_out_and_count_nothing(tmp_path: Path) -> None:
    _, runner, _, x = watched(tmp_path, "residual")
    (name,) = runner.network.inputs
    found = seen(runner, [name], x, 5, False)
    makers = [row for row in range(len(x)) if not is_held_out(row)]
    assert found.extremes[name].samples.indices == makers
    assert (found.extremes[name].low, found.extremes[name].high) == (float(x[makers].min()), float(x[makers].max()))
    assert found.histograms == {} and not any(found.held_out.values())


def test_values_that_are_not_finite_stop_the_pass_either_way(tmp_path: Path) -> None:
    _, runner, values, x = watched(tmp_path, "residual")
    x[3, 0, 0, 0] = math.nan
    for is_counted in (True, False):
        with pytest.raises(CalibrationError, match="samples 3"):
            seen(runner, values, x, 21, is_counted)


def test_a_run_by_extremes_has_the_points_of_one_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = exported(network("residual"), tmp_path)
    recipe, samples = NetworkRecipe(ranges=(MeanMinMax(), MinMaxRange())), samples_for("residual", source)
    made = quantize_network(source, recipe, tmp_path / "bounded", samples)
    assert {row["sqnr"] for row in read_manifest(tmp_path / "bounded")["points"]} == {None}
    monkeypatch.setattr("bitwright.engine.network.ExtremesRule", Extremes)  # a class that no rule is of
    counted = quantize_network(source, recipe, tmp_path / "counted", samples)
    assert None not in {row["sqnr"] for row in read_manifest(tmp_path / "counted")["points"]}
    assert {n: (p.scale, p.zero) for n, p in made.points.items()} == {
        n: (p.scale, p.zero) for n, p in counted.points.items()
    }


def runner_of(nodes: list[onnx.NodeProto], inputs: dict[str, list[int | str]], output: str) -> OnnxRunner:
    def info(name: str, shape: list[int | str] | None) -> onnx.ValueInfoProto:
        found: onnx.ValueInfoProto = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        return found

    graph = helper.make_graph(nodes, "graph", [info(*held) for held in inputs.items()], [info(output, None)])
    return OnnxRunner(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), Path("."))


def numbers(observed: Observed, value: str) -> tuple[int, list[int]]:
    """How many numbers made ranges, and how many each held-out sample has."""
    return observed.histograms[value].count, [held.count for held in observed.held_out[value]]


def test_rows_of_one_sample_count_for_that_sample() -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["a"], perm=[0, 2, 1]), helper.make_node("Identity", ["a"], ["y"])]
    found = observe(runner_of(nodes, {"x": ["n", 6, 4]}, "y"), ["a"], [{"x": torch.randn(16, 6, 4)}])
    assert numbers(found, "a") == (14 * 24, [24, 24])


def test_a_value_with_several_rows_for_each_sample_is_cut_evenly() -> None:
    size = helper.make_node("Constant", [], ["size"], value_ints=[-1, 2, 4])  # three windows of every sample
    nodes = [size, helper.make_node("Reshape", ["x", "size"], ["a"]), helper.make_node("Identity", ["a"], ["y"])]
    batch = torch.arange(16.0).reshape(16, 1, 1).expand(16, 6, 4).contiguous()
    found = observe(runner_of(nodes, {"x": ["n", 6, 4]}, "y"), ["a"], [{"x": batch}])
    assert numbers(found, "a") == (14 * 24, [24, 24])
    assert [(held.low, held.high) for held in found.held_out["a"]] == [(4, 4), (10, 10)]


def test_where_no_row_belongs_to_one_sample_the_same_numbers_judge() -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["a"], perm=[1, 0]), helper.make_node("Identity", ["a"], ["y"])]
    found = observe(runner_of(nodes, {"x": ["n", 7]}, "y"), ["a"], [{"x": torch.randn(16, 7)}])
    assert numbers(found, "a") == (16 * 7, [16 * 7])


def test_a_scalar_input_is_every_samples() -> None:
    nodes = [helper.make_node("Mul", ["x", "k"], ["y"])]
    batch = {"x": torch.randn(HELD_OUT, 3), "k": torch.tensor(2.0)}
    found = observe(runner_of(nodes, {"x": ["n", 3], "k": []}, "y"), ["y"], [batch])
    assert found.count == HELD_OUT and numbers(found, "y") == (21, [3])


def test_inputs_whose_first_axes_differ_are_one_sample_a_call() -> None:
    nodes = [helper.make_node("MatMul", ["x", "state"], ["y"])]
    calls: list[dict[str, Tensor]] = [
        {"x": torch.randn(1, 4, generator=torch.Generator().manual_seed(i)), "state": torch.randn(4, 3)}
        for i in range(HELD_OUT)
    ]
    found = observe(runner_of(nodes, {"x": [1, 4], "state": [4, 3]}, "y"), ["y"], calls)
    assert found.count == HELD_OUT and numbers(found, "y") == (21, [3])
