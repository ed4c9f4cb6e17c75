from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.evaluate import EvaluateError
from bitwright.evaluate.side import Rounded, Side
from bitwright.evaluate.windows import Windows
from bitwright.execute import TorchRunner
from bitwright.graph import trace
from bitwright.store.artifact import Artifact
from bitwright.store.source import open_source


@pytest.fixture
def rounded(artifact: Artifact, model: Path) -> Rounded:
    source = open_source(model)
    return Rounded(artifact, source, trace(source.skeleton()), torch.float32)


def test_an_artifacts_weights_have_the_sources_names_and_the_artifacts_numbers(rounded: Rounded) -> None:
    names = ["model.embed_tokens.weight", "model.norm.weight", "model.layers.1.mlp.up_proj.weight"]
    found = rounded.read(names)
    assert found.keys() == set(names)
    exact = rounded.source.read(names)
    assert [torch.equal(found[name], exact[name]) for name in names] == [False, True, False]
    assert torch.equal(found[names[2]], rounded.artifact.qtensors(1)["model.layers.1.mlp.up_proj"].dequantize())


def test_a_weight_that_the_artifact_lacks_is_named(rounded: Rounded) -> None:
    with pytest.raises(EvaluateError, match=r"lacks model\.layers\.0\.other\.weight"):
        rounded.read(["model.layers.0.other.weight"])


def test_padding_is_not_computed_with(rounded: Rounded, tmp_path: Path) -> None:
    windows = Windows(torch.randint(4096, (3, 16), generator=torch.Generator().manual_seed(0)), 5, "")
    side = Side.open(rounded, TorchRunner(rounded, rounded.graph, torch.float32), windows, tmp_path / "artifact")
    batches = windows.batches(32)
    side.embed(batches)
    side.advance(0, batches)
    assert side.read(batches[-1]).shape == (1, 5, 32)
    assert torch.equal(side.stream.read(2, 3)[:, 5:], torch.zeros((1, 11, 32)))
