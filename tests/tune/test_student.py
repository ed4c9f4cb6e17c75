"""Gradients block by block against one pass through the whole model as transformers has it."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from bitwright.evaluate.windows import Windows
from bitwright.graph import trace
from bitwright.store.artifact import Artifact, assembled
from bitwright.store.source import open_source
from bitwright.tune.student import Student
from bitwright.tune.tune import moving_weights, original_streams
from engine.tiny import token_rows


def test_gradients_are_those_of_the_whole_model(made: tuple[Path, Artifact], tmp_path: Path) -> None:
    model, artifact = made
    source = open_source(model)
    graph = trace(source.skeleton())
    weights = dict(moving_weights(artifact, source))
    rows = token_rows(4)
    wanted = original_streams(source, graph, rows, tmp_path).stream.read(0, 4)
    mean = Student(artifact, source, graph, weights).learn(rows.rows, wanted)
    found = {name: (weight.move.grad, weight.factor.grad) for name, weight in weights.items()}

    original, student = (transformers.AutoModelForCausalLM.from_pretrained(model).eval() for _ in range(2))
    student.load_state_dict(artifact.parameters(None, torch.float32), strict=False)
    for weight in weights.values():
        weight.move.grad = weight.factor.grad = None
    entries = [entry for entry in artifact.entries if entry.block is not None]
    drawn = assembled(entries, {entry.name: weights[entry.name].draw() for entry in entries})
    with torch.no_grad():
        log_p = original(rows.rows).logits.double().log_softmax(-1)
    made_of = torch.func.functional_call(student, drawn, (rows.rows,))
    log_q = made_of.logits.double().log_softmax(-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    divergence.mean().backward()

    assert abs(mean / float(divergence.detach().mean()) - 1) < 1e-4
    for name, weight in weights.items():
        for mine, reference in zip(found[name], (weight.move.grad, weight.factor.grad), strict=True):
            assert mine is not None and reference is not None
            assert torch.allclose(mine, reference, rtol=1e-3, atol=1e-4 * float(reference.abs().max())), name


def test_the_judge_reads_codes_as_they_are_stored(made: tuple[Path, Artifact], tmp_path: Path) -> None:
    model, artifact = made
    source = open_source(model)
    graph = trace(source.skeleton())
    weights = dict(moving_weights(artifact, source))
    for weight in weights.values():
        weight.move.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
    rows = token_rows(5)
    streams = original_streams(source, graph, rows, tmp_path).stream
    student = Student(artifact, source, graph, weights)
    found = student.judge([rows.rows[:3], rows.rows[3:]], [streams.read(0, 3), streams.read(3, 5)])

    original, whole = (transformers.AutoModelForCausalLM.from_pretrained(model).eval() for _ in range(2))
    whole.load_state_dict(artifact.parameters(None, torch.float32), strict=False)
    entries = [entry for entry in artifact.entries if entry.block is not None]
    stored = assembled(entries, {entry.name: weights[entry.name].stored().dequantize() for entry in entries})
    whole.load_state_dict(stored, strict=False)
    with torch.no_grad():
        log_p, log_q = (m(rows.rows).logits.double().log_softmax(-1) for m in (original, whole))
    assert abs(found / float((log_p.exp() * (log_p - log_q)).sum(-1).mean()) - 1) < 1e-4


def test_windows_of_the_original_are_the_rows(dense: tuple[Path, Artifact], tmp_path: Path) -> None:
    source = open_source(dense[0])
    rows = token_rows(3)
    side = original_streams(source, trace(source.skeleton()), rows, tmp_path)
    assert side.stream.shape[:2] == Windows(rows.rows, rows.rows.shape[1], "").rows.shape
