"""What a plan for a network costs: bytes as stored, products as counted by hand, memory that grows with samples."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bitwright.engine.prepare import without_trials
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.recipe.network import NetworkRecipe, plan_network
from bitwright.recipe.network_cost import Cost, matrix_of, predict_network, products, sizes_of
from bitwright.solvers import Brecq, Schedule
from bitwright.store.onnx_source import OnnxSource
from networks import exported, network, sample


def prepared(name: str, folder: Path) -> OnnxSource:
    return without_trials(exported(network(name), folder), NetworkRecipe(), folder)


def cost(source: OnnxSource, samples: int = 32, recipe: NetworkRecipe = NetworkRecipe()) -> Cost:
    graph = source.network()
    return predict_network(graph, recipe, plan_network(graph, recipe), sizes_of(graph), samples, 1e10)


def test_products_are_those_of_the_layers(tmp_path: Path) -> None:
    graph = prepared("depthwise", tmp_path).network()
    counted = sorted(products(graph, sizes_of(graph)).values())
    stem, expand, depthwise, project, head = 36 * 8 * 27, 36 * 8 * 24, 36 * 24 * 9, 36 * 24 * 8, 8 * 5
    assert counted == sorted([stem, expand, depthwise, project, head])


def test_a_transposed_convolution_and_products_of_activations_are_counted(tmp_path: Path) -> None:
    graph = prepared("two_inputs", tmp_path).network()
    counts = products(graph, sizes_of(graph))
    (spread,) = [node for node in graph.nodes if node.op == "ConvTranspose"]
    assert counts[spread.name] == 8 * 16 * 8 * 4
    graph = prepared("attention", tmp_path).network()
    counts = products(graph, sizes_of(graph))
    inner = [counts[n.name] for n in graph.nodes if n.op == "MatMul" and n.inputs[1] not in graph.constants]
    assert inner == [2 * 6 * 6 * 8, 2 * 6 * 6 * 8]


@pytest.mark.parametrize("name", ["residual", "squeeze", "attention"])
def test_sizes_are_those_of_values_that_run(tmp_path: Path, name: str) -> None:
    source = prepared(name, tmp_path)
    graph = source.network()
    feeds = dict(zip(graph.inputs, sample(network(name), 4), strict=True))
    wanted = [o for node in graph.nodes for o in node.outputs if graph.values[o].dtype == "float32"]
    found = OnnxRunner(source).run(feeds, wanted)
    sizes = sizes_of(graph)
    runs_along = {value: tensor.numel() // 4 for value, tensor in found.items() if tensor.dim() and len(tensor) == 4}
    assert runs_along.items() <= sizes.items()


def test_bytes_count_codes_scales_and_what_stays_float(tmp_path: Path) -> None:
    source = prepared("residual", tmp_path)
    graph = source.network()
    plan = plan_network(graph, NetworkRecipe())
    found = cost(source)
    codes = sum(math.prod(matrix_of(graph, step)) for step in plan.weights)
    channels = sum(matrix_of(graph, step)[0] for step in plan.weights)
    assert found.weight_bytes == codes + 5 * channels and found.weight_bytes_before == 4 * codes
    assert found.bytes_before - found.bytes == found.weight_bytes_before - found.weight_bytes
    assert found.integer_share == 1.0


def test_memory_and_time_grow_with_samples_and_memory_stops_to(tmp_path: Path) -> None:
    source = prepared("residual", tmp_path)
    few, many, more = (cost(source, samples) for samples in (8, 128, 1024))
    assert few.peak_ram_bytes < many.peak_ram_bytes == more.peak_ram_bytes
    assert few.seconds < many.seconds < more.seconds


def test_edits_relief_and_learning_take_time_that_is_counted(tmp_path: Path) -> None:
    source = prepared("residual", tmp_path)
    plain = cost(source).seconds
    for more in ({"equalize": True}, {"absorb": True}, {"smooth": (0.5,)}, {"relief": True}, {"learn": Brecq()}):
        assert cost(source, recipe=NetworkRecipe(**more)).seconds > plain, more
    assert (
        cost(source, recipe=NetworkRecipe(smooth=(0.3, 0.5))).seconds
        > cost(source, recipe=NetworkRecipe(smooth=(0.5,))).seconds
    )


def test_learning_costs_three_runs_for_every_sample_that_its_steps_draw(tmp_path: Path) -> None:
    source = prepared("residual", tmp_path)
    schedule = Schedule(steps=50, batch=8)
    spent = cost(source, recipe=NetworkRecipe(learn=Brecq(schedule))).seconds - cost(source).seconds
    graph = source.network()
    sizes = sizes_of(graph)
    numbers = sum(sizes.get(name, 0) for node in graph.nodes for name in node.outputs)
    assert spent == pytest.approx(50 * 8 * (3 * 2 * sum(products(graph, sizes).values()) / 1e10 + 1.5e-8 * numbers))


def test_a_wide_network_needs_less_memory_than_its_batches_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = prepared("attention", tmp_path)
    sizes = {name: 10**6 * size for name, size in sizes_of(source.network()).items()}
    graph = source.network()
    plan = plan_network(graph, NetworkRecipe())
    wide = predict_network(graph, NetworkRecipe(), plan, sizes, 64, 1e10).peak_ram_bytes
    monkeypatch.setattr("bitwright.recipe.network_cost.WIDE", 10**15)
    assert wide < 0.9 * predict_network(graph, NetworkRecipe(), plan, sizes, 64, 1e10).peak_ram_bytes
