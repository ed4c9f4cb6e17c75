from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bitwright.engine.walk import shaped_offset
from bitwright.execute.onnx_runner import OnnxRunner
from networks import exported, network, sample


@pytest.mark.parametrize("is_known", [True, False])
def test_an_offset_adds_to_each_channel_whether_or_not_the_file_says_the_shape(is_known: bool, tmp_path: Path) -> None:
    module = network("residual")
    runner = OnnxRunner(exported(module, tmp_path))
    graph = runner.network
    if not is_known:
        graph = replace(
            graph,
            values={
                name: replace(v, shape=None) if name not in graph.constants else v for name, v in graph.values.items()
            },
        )
    feeds = dict(zip(graph.inputs, sample(module, 2, 1), strict=True))
    for node in graph.nodes:
        if node.op not in ("Conv", "Gemm"):
            continue
        made = runner.run(feeds, [node.outputs[0]])[node.outputs[0]]
        offset = torch.arange(1.0, made.shape[1] + 1)
        added = made + shaped_offset(graph, node, offset) - made
        for channel in range(made.shape[1]):
            assert torch.allclose(added[:, channel], offset[channel].expand_as(added[:, channel]), atol=1e-4)
