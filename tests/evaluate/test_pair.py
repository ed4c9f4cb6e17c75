from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.evaluate import pair as module
from bitwright.evaluate.pair import Pair
from bitwright.evaluate.side import Rounded, Side
from bitwright.evaluate.windows import Windows
from bitwright.execute import TorchRunner
from bitwright.graph import trace
from bitwright.store.artifact import Artifact
from bitwright.store.source import open_source


@pytest.fixture
def pair(artifact: Artifact, model: Path, tmp_path: Path) -> Pair:
    """Three windows of 16 tokens, the last one of 5, behind the last block."""
    source = open_source(model)
    graph = trace(source.skeleton())
    windows = Windows(torch.randint(4096, (3, 16), generator=torch.Generator().manual_seed(0)), 5, "")
    sides = [
        Side.open(weights, TorchRunner(weights, graph, torch.float32), windows, tmp_path / name)
        for name, weights in (("original", source), ("artifact", Rounded(artifact, source, graph, torch.float32)))
    ]
    pair = Pair(sides[0], sides[1], windows, windows.batches(32))
    pair.embed()
    for index in range(2):
        pair.advance(index)
    return pair


def measured(pair: Pair) -> torch.Tensor:
    tokens = pair.tokens(lambda done: None)
    return torch.stack([tokens.original, tokens.rounded, tokens.divergence, tokens.agrees])


def test_every_predicted_token_is_measured(pair: Pair) -> None:
    assert measured(pair).shape == (4, 15 + 15 + 4)


def test_the_heads_run_on_few_positions_at_a_time_without_changing_anything(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measured(pair)
    monkeypatch.setattr(module, "LOGITS", 4 * 4096 * 2)  # four positions of two windows
    torch.testing.assert_close(measured(pair), whole, rtol=1e-5, atol=1e-6)


def test_never_more_logits_than_allowed_are_in_memory(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGITS", 4 * 4096 * 2)
    compare_logits, sizes = module.compare_logits, []

    def watched(original: torch.Tensor, rounded: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        sizes.append(original.numel())
        return compare_logits(original, rounded, targets)

    monkeypatch.setattr(module, "compare_logits", watched)
    measured(pair)
    assert max(sizes) == 4 * 4096 * 2
