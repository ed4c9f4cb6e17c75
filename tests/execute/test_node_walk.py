"""A walk from node to node gives what a run of the whole gives, with codes and changed constants where asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitwright.execute.interpret import interpret
from bitwright.execute.node_walk import Change, NodeWalk
from bitwright.execute.onnx_runner import OnnxRunner
from networks import NETWORKS, exported, network, sample


def coarse(name: str, value: Tensor) -> Tensor:
    """A quantizer that leaves its mark."""
    return (value * 4).round() / 4


def ready(name: str, folder: Path) -> tuple[OnnxRunner, list[dict[str, Tensor]], dict[str, Tensor]]:
    module = network(name, 0)
    source = exported(module, folder, name)
    runner = OnnxRunner(source)
    batches = [dict(zip(runner.network.inputs, sample(module, 3, seed), strict=True)) for seed in (1, 2)]
    return runner, batches, source.read(sorted(runner.network.constants))


@pytest.mark.parametrize("name", NETWORKS)
def test_without_points_it_is_a_run(name: str, tmp_path: Path) -> None:
    runner, batches, _ = ready(name, tmp_path)
    walk = NodeWalk(runner, batches, {})
    for node in runner.network.nodes:
        walk.advance(node)
    for live, batch in zip(walk.live, batches, strict=True):
        assert live.keys() == set(runner.network.outputs)  # all else is forgotten
        for output, value in runner.run(batch).items():
            torch.testing.assert_close(live[output], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_codes_and_constants_are_those_of_the_interpreter(name: str, tmp_path: Path) -> None:
    runner, batches, constants = ready(name, tmp_path)
    middle = [node.outputs[0] for node in runner.network.nodes if node.op in ("Relu", "Conv", "Gemm", "MatMul")]
    changed = {key: value * 1.5 for key, value in constants.items() if value.dim() == 4 or key.endswith("head.weight")}
    walk = NodeWalk(runner, batches, dict.fromkeys(middle, (coarse, None)))
    for node in runner.network.nodes:
        walk.advance(node, Change({key: value for key, value in changed.items() if key in node.inputs}))
    for live, batch in zip(walk.live, batches, strict=True):
        expected = interpret(
            runner.network.nodes,
            {**constants, **changed, **batch},
            runner.network.outputs,
            lambda key, value: coarse(key, value) if key in middle else value,
        )
        for output, value in expected.items():
            torch.testing.assert_close(live[output], value, rtol=1e-3, atol=0.251)  # a tie may fall to either side
            assert float((live[output] - value).abs().mean()) < 0.02


def test_nodes_run_apart_come_to_the_same_and_hold_what_is_needed_later(tmp_path: Path) -> None:
    runner, batches, constants = ready("residual", tmp_path)
    nodes = runner.network.nodes
    middle = [node.outputs[0] for node in nodes if node.op == "Relu"]
    changes = {
        node.name: Change(
            {key: constants[key] * 1.5 for key in node.inputs if key in constants and key in node.inputs[1:2]}
        )
        for node in nodes
        if node.op == "Conv"
    }
    walks = [NodeWalk(runner, batches, dict.fromkeys(middle, (coarse, None))) for _ in range(2)]
    for start in range(0, len(nodes), 3):
        some = nodes[start : start + 3]
        walks[0].advance_apart(some, changes)
        for node in some:
            walks[1].advance(node, changes.get(node.name, Change()))
        for one, other in zip(walks[0].live, walks[1].live, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_point_of_some_readers_is_float_for_the_others(tmp_path: Path) -> None:
    runner, batches, _ = ready("residual", tmp_path)
    value = runner.network.inputs[0]
    (reader, _), *_ = runner.network.readers(value)
    walk = NodeWalk(runner, batches, {value: (coarse, (reader.name,))})
    (seen,) = list(walk.inputs(reader))[:1]
    assert torch.equal(seen[value], coarse(value, batches[0][value]))
    assert torch.equal(walk.live[0][value], batches[0][value])
