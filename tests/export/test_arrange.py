"""What is delivered has the arrangement that engines like, and computes what it would have computed without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.export import onnx_draft
from export.arranged import operators, optimised
from export.test_qdq_graph import quantized, written
from networks import exported, network, sample


def test_a_transformer_layer_runs_in_the_joined_and_the_separate_operators_that_are_fast(tmp_path: Path) -> None:
    model = written(quantized(exported(network("attention"), tmp_path)), tmp_path / "q.onnx")
    left = optimised(model, tmp_path)
    assert left["SkipLayerNormalization"] == 0
    assert left["LayerNormalization"] == 2
    assert left["BiasGelu"] + left["Gelu"] == 1
    assert left["Erf"] == 0


def test_the_arrangement_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = network("attention")
    source = exported(module, tmp_path)
    arranged = written(quantized(source), tmp_path / "arranged.onnx")
    monkeypatch.setattr(onnx_draft, "arrange", lambda model, source: None)
    plain = written(quantized(source), tmp_path / "plain.onnx")
    assert operators(arranged) != operators(plain)
    feeds = dict(zip(source.network().inputs, sample(module, 4), strict=True))
    wanted = OnnxRunner(plain, tmp_path, exact=True).run(feeds)
    found = OnnxRunner(arranged, tmp_path, exact=True).run(feeds)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_network_without_such_operators_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = quantized(exported(network("residual"), tmp_path))
    arranged = written(held, tmp_path / "one" / "model.onnx")
    monkeypatch.setattr(onnx_draft, "arrange", lambda model, source: None)
    assert arranged == written(held, tmp_path / "other" / "model.onnx")
