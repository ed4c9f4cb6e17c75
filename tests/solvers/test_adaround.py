"""Learned rounding of a layer against an exhaustive search over all ways to round it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import relu

from bitwright.numerics import PER_ROW, Int, Spec
from bitwright.solvers import AdaRound, Piece, Reconstruction, Schedule
from conformance.pieces import activation, linear

ROWS, COLS = 4, 10
TINY = [Spec(Int(3), PER_ROW), Spec(Int(2, signed=False), PER_ROW, zero=Spec(Int(2, signed=False)))]


def tiny(spec: Spec, seed: int) -> Reconstruction:
    """A layer small enough to try everything; the samples it learns from are also those it is judged on."""
    problem = linear(spec, ROWS, COLS, 200, seed)
    return replace(problem, held_out=problem.samples)


def row_errors(problem: Reconstruction, weight: Tensor, row: int) -> Tensor:
    """The squared error of one output for many candidate rows [candidates, in], float64."""
    x, wanted = problem.samples.quantized["x"].double(), problem.samples.wanted.double()[:, row]
    return (relu(x @ weight.double().mT + problem.biases["b"].double()[row]) - wanted[:, None]).square().sum(0)


def optimum(problem: Reconstruction) -> float:
    """Noise over signal of the best of all 2^in ways to round every row up or down."""
    start, spec = problem.weights["w"].start, problem.weights["w"].start.spec
    params, values = start.params, spec.format.values().tolist()
    assert params is not None
    total = 0.0
    for row in range(ROWS):
        scale, zero = float(params.scale[row, 0]), 0.0 if params.zero is None else float(params.zero[row, 0])
        pairs = []
        for w in problem.weights["w"].tensor[row].tolist():
            x = w / scale + zero
            below = max((v for v in values if v <= x), default=values[0])
            above = min((v for v in values if v > x), default=values[-1])
            pairs.append(((below - zero) * scale, (above - zero) * scale))
        total += float(row_errors(problem, torch.tensor(list(product(*pairs))), row).min())
    return total / float(problem.samples.wanted.double().square().sum())


def test_it_comes_close_to_the_best_of_all_roundings() -> None:
    """Of what the best of all roundings gains over nearest it gets most, over formats and seeds."""
    gained = []
    for spec, seed in product(TINY, range(4)):
        problem = tiny(spec, seed)
        found, best = AdaRound().reconstruct(problem), optimum(problem)
        assert best <= found.after * (1 + 1e-4) and found.after <= found.before
        gained.append((found.before - found.after) / (found.before - best))
    assert sum(gained) / len(gained) >= 0.6


def test_it_is_far_better_than_nearest_on_held_out_samples() -> None:
    found = AdaRound().reconstruct(linear(rows=16, cols=64, count=512))
    assert found.kept and found.after < 0.5 * found.before


def test_the_point_behind_the_layer_counts() -> None:
    """Behind a coarse quantizer the aim is another one, and learning for it is better there."""
    problem = linear(rows=16, cols=32, count=512)
    behind = replace(problem, points={"y": activation(problem.samples.wanted)})
    without, within = AdaRound().reconstruct(problem).choice, AdaRound().reconstruct(behind)
    measured = AdaRound(Schedule(steps=1, checks=1), rate=1e-9)
    handed = {"w": replace(problem.weights["w"], start=without.weights["w"])}
    assert within.after <= 1.02 * measured.reconstruct(replace(behind, weights=handed)).before


def test_it_is_a_method_for_layers() -> None:
    assert AdaRound().piece is Piece.LAYER
