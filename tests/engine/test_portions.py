"""A batch in parts gives what the batch gives, one sample first and then as many as there is room for.

Batches of wide networks are smaller, and their runs come to the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitwright.calib import MinMaxRange
from bitwright.engine.network import quantize_network
from bitwright.engine.portions import measured_sizes, roomy, run_in_parts
from bitwright.engine.simulate import Simulation
from bitwright.execute.node_walk import NodeWalk
from bitwright.execute.onnx_runner import OnnxRunner, RunError
from bitwright.recipe import network_cost
from bitwright.recipe.network import int8
from bitwright.store.quantized import QuantizedNetwork
from bitwright.store.sample_set import Samples, gather
from export.arranged import source_of
from networks import exported, network, sample

GRAPH = "g (float[{n}, 4] x, float[{m}, 4] y) => (float[A, 4] out) {{ double = Add(x, x) out = Mul(double, y) }}"


def runner_of(tmp_path: Path, n: str, m: str) -> OnnxRunner:
    return OnnxRunner(source_of(GRAPH.format(n=n, m=m), tmp_path))


def parts_of(runner: OnnxRunner, batch: dict[str, Tensor], values: list[str], room: int) -> list[tuple[int, dict]]:
    found: list[tuple[int, dict]] = []
    run_in_parts(runner, batch, values, lambda size, made: found.append((size, dict(made))), room)
    return found


def feeds(count: int, others: int) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return {"x": torch.randn(count, 4, generator=draws), "y": torch.randn(others, 4, generator=draws)}


@pytest.mark.parametrize(
    ("room", "sizes"), [(1, [1] * 7), (16, [1, 2, 2, 2]), (24, [1, 3, 3]), (1000, [1, 6])], ids=str
)
def test_parts_are_as_large_as_the_room_and_join_to_the_whole(tmp_path: Path, room: int, sizes: list[int]) -> None:
    batch, runner = feeds(7, 7), runner_of(tmp_path, "N", "N")
    parts = parts_of(runner, batch, ["double", "out"], room)
    assert [size for size, _ in parts] == sizes
    for name, wanted in runner.run(batch, ("double", "out")).items():
        assert torch.equal(torch.cat([made[name] for _, made in parts]), wanted)


@pytest.mark.parametrize(("n", "m", "others"), [("4", "4", 4), ("N", "M", 1)], ids=["fixed", "not alike"])
def test_a_batch_that_cannot_be_cut_stays_whole(tmp_path: Path, n: str, m: str, others: int) -> None:
    batch, runner = feeds(4, others), runner_of(tmp_path, n, m)
    ((size, made),) = parts_of(runner, batch, ["out"], room=1)
    assert size == min(4, others)
    assert torch.equal(made["out"], runner.run(batch)["out"])


def test_values_of_a_network_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    runner = OnnxRunner(exported(network("residual"), tmp_path))
    (name,) = runner.network.inputs
    batch = {name: sample(network("residual"), 5)[0]}
    values = [node.outputs[0] for node in runner.network.nodes]
    parts = [made for _, made in parts_of(runner, batch, values, room=20_000)]
    assert len(parts) > 2
    for value, wanted in runner.run(batch, values).items():
        torch.testing.assert_close(torch.cat([made[value] for made in parts]), wanted)


def samples_of(runner: OnnxRunner, name: str, count: int = 40) -> Samples:
    """Samples of one of the NETWORKS, which has one input."""
    (value,) = [runner.network.values[one] for one in runner.network.inputs]
    held = sample(network(name), count, seed=3)[0]
    return gather([value], count, None, "drawn", lambda place: (str(place), {value.name: held[place : place + 1]}))


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_the_widest_place_is_where_most_numbers_are_needed(name: str, tmp_path: Path) -> None:
    runner = OnnxRunner(exported(network(name), tmp_path))
    samples = samples_of(runner, name)
    sizes = measured_sizes(runner, samples)
    walk, most = NodeWalk(runner, [samples.first()], {}), 0
    for node in runner.network.nodes:
        before = dict(walk.live[0])
        walk.advance(node)
        most = max(most, sum(value.numel() for value in (before | walk.live[0]).values()))
    for room, most_samples in ((5 * most, 5), (most // 2, 1), (100 * most, None)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(network_cost, "WIDE", room)
            assert roomy(runner, samples).most == most_samples
            assert network_cost.batch_of(runner.network, sizes) == (most_samples or network_cost.BATCH)


def test_a_fixed_batch_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_cost, "WIDE", 1)
    runner = runner_of(tmp_path, "4", "4")
    inputs = [runner.network.values[name] for name in runner.network.inputs]
    held = feeds(8, 8)
    rows = gather(inputs, 8, None, "drawn", lambda at: (str(at), {n: held[n][at : at + 1] for n in held}))
    assert roomy(runner, rows) is rows


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_a_wide_network_comes_to_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = exported(network(name), tmp_path)
    runner = OnnxRunner(source)
    samples, recipe = samples_of(runner, name), replace(int8(), ranges=(MinMaxRange(),))

    def quantized(folder: str) -> QuantizedNetwork:
        return quantize_network(source, recipe, tmp_path / folder, samples)

    usual, seen = quantized("usual"), list[int]()
    monkeypatch.setattr(network_cost, "WIDE", 1)
    run = OnnxRunner.run

    def watched(self: OnnxRunner, given: dict[str, Tensor], wanted: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        seen.extend(len(given[one]) for one in self.network.inputs if one in given)
        return run(self, given, wanted)

    monkeypatch.setattr(OnnxRunner, "run", watched)
    wide = quantized("wide")
    monkeypatch.undo()
    assert set(seen) == {1}
    assert usual.points.keys() == wide.points.keys() and usual.weights.keys() == wide.weights.keys()
    for key, point in usual.points.items():  # another order of sums may move the last digit of an end
        assert (point.low, point.high) == pytest.approx((wide.points[key].low, wide.points[key].high), rel=1e-4)
    feed = {runner.network.inputs[0]: sample(network(name), 16, seed=4)[0]}
    wanted = runner.run(feed)[runner.network.outputs[0]]
    noises = [
        (Simulation.of(made).run(feed)[runner.network.outputs[0]] - wanted).square().sum() for made in (usual, wide)
    ]
    assert 0.7 < float(noises[0] / noises[1]) < 1.4  # halves of samples that judge are others, codes may be


def test_what_cannot_be_run_node_by_node_keeps_its_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = OnnxRunner(exported(network("residual"), tmp_path))
    samples = samples_of(runner, "residual")
    monkeypatch.setattr(network_cost, "WIDE", 1)
    last, run = runner.network.nodes[-1].outputs[0], OnnxRunner.run

    def fails(self: OnnxRunner, given: dict[str, Tensor], wanted: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        if wanted == (last,):
            raise RunError("a sequence")
        return run(self, given, wanted)

    monkeypatch.setattr(OnnxRunner, "run", fails)
    assert roomy(runner, samples) is samples
