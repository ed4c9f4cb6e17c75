"""A live segment runs as the walk runs: the same codes for the same readers, the same offsets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.calib.activation import activation_params
from bitwright.engine.judge import through
from bitwright.engine.live_segment import activation_of, in_codes, offset_of, open_segment, range_of
from bitwright.execute.interpret import as_it_is
from bitwright.execute.node_walk import Change, NodeWalk
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.segments import Segment
from bitwright.numerics import PER_TENSOR, Int, Params, Spec
from bitwright.store.quantized import StoredPoint
from networks import exported, network, sample

UINT8 = Spec(Int(8, signed=False), PER_TENSOR, zero=Spec(Int(8, signed=False)))


@pytest.mark.parametrize("name", ["residual", "depthwise", "squeeze"])
def test_it_gives_what_the_walk_gives(name: str, tmp_path: Path) -> None:
    module = network(name)
    source = exported(module, tmp_path)
    runner = OnnxRunner(source)
    graph = runner.network
    feeds = dict(zip(graph.inputs, sample(module, 4, 1), strict=True))
    convolutions = [node for node in graph.nodes if node.op == "Conv"]
    points = {}
    for node in convolutions:
        (value,) = {node.inputs[0]}
        seen = runner.run(feeds, [value])[value]
        params = activation_params(float(seen.min()), float(seen.max()), UINT8)
        readers = (node.name,) if node is convolutions[0] else None
        points[value] = StoredPoint(value, UINT8, value, readers, params=params)
    last = convolutions[-1]
    offset = torch.linspace(-0.5, 0.5, graph.values[last.outputs[0]].shape[1]).reshape(-1, 1, 1)  # type: ignore[index]
    walk = NodeWalk(runner, [feeds], {name: (through(point), point.readers) for name, point in points.items()})
    for node in graph.nodes:
        walk.advance(node, Change(offset=offset) if node is last else Change())
    whole = Segment(graph.nodes, graph.inputs, graph.outputs)
    live = open_segment(whole, source.read(sorted(graph.constants)), points, {last.name: offset})
    live = live.with_fixed({in_codes(name): activation_of(point) for name, point in points.items()})
    assert set(live.points) == points.keys() and live.offsets.keys() == {offset_of(last.name)}
    found = live.run({}, feeds, as_it_is)
    for output in graph.outputs:
        error = (found[output] - walk.live[0][output]).norm() / walk.live[0][output].norm()
        assert float(error) < 1e-2  # a tie may fall to either side
    bare = live.without_codes().run({}, feeds, as_it_is)
    for output, value in runner.run(feeds).items():
        torch.testing.assert_close(bare[output], value, rtol=1e-4, atol=1e-5)


def test_a_range_is_what_the_outermost_codes_stand_for() -> None:
    params = Params(torch.tensor([[0.5]]), torch.tensor([[3.0]]))
    assert range_of(UINT8, params) == (-1.5, 126.0)
    assert range_of(Spec(Int(4), PER_TENSOR), Params(torch.tensor([[0.25]]))) == (-2.0, 1.75)
