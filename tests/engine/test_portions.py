"""A batch in parts gives what the batch gives, one sample first and then as many as there is room for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitwright.engine.portions import run_in_parts
from bitwright.execute.onnx_runner import OnnxRunner
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
