"""AdaQuant: everything it may move helps, and a rate of zero holds still."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bitwright.numerics import PER_ROW, PER_TENSOR, Float, FloatKind, Int, MinMax, Params, Spec, quantize
from bitwright.solvers import AdaQuant, Feedback, Piece, Problem, Reconstruction, RoundedWeight, Schedule
from bitwright.solvers.moving import Moving, as_it_was
from conformance.block_solvers import noise_over_signal
from conformance.pieces import activation, correlated, linear
from conformance.specs import random_gram, random_weight

STILL = AdaQuant(Schedule(steps=200), rate=0.0, scale_rate=0.0, bias_rate=0.0, point_rate=0.0)


def test_it_is_far_better_than_nearest_on_held_out_samples() -> None:
    found = AdaQuant().reconstruct(linear(rows=16, cols=64, count=512))
    assert found.kept and found.after < 0.6 * found.before


def test_weights_alone_improve_and_nothing_else_moves() -> None:
    problem = linear()
    found = replace(STILL, rate=0.005).reconstruct(problem)
    assert found.kept and found.after < 0.9 * found.before
    chosen, start = found.choice.weights["w"], problem.weights["w"].start
    assert chosen.params is not None and start.params is not None
    assert torch.equal(chosen.params.scale, start.params.scale) and not torch.equal(chosen.codes, start.codes)
    assert torch.equal(found.choice.biases["b"], problem.biases["b"])


def badly_scaled() -> Reconstruction:
    problem = linear(Spec(Int(4), PER_ROW, scale=Spec(Float(FloatKind.FLOAT16))))
    weight = problem.weights["w"]
    params = MinMax().fit(weight.start.spec, weight.matrix())
    start = quantize(weight.matrix(), weight.start.spec, Params(params.scale * 1.5))
    return replace(problem, weights={"w": RoundedWeight(weight.tensor, start)})


def test_scales_alone_improve_and_are_stored_in_their_format() -> None:
    problem = badly_scaled()
    found = replace(STILL, scale_rate=0.01).reconstruct(problem)
    assert found.kept and found.after < 0.8 * found.before
    params = found.choice.weights["w"].params
    assert params is not None and torch.equal(params.scale.half().float(), params.scale)


def test_biases_alone_take_away_a_mean_error() -> None:
    """Least squares says what is left: the variance of the error."""
    problem = linear()
    tensor = problem.weights["w"].tensor

    def forward(weights, inputs, quantize):  # type: ignore[no-untyped-def]
        return inputs["x"] @ weights["w"].mT + weights["b"]

    def shifted(seed: int) -> tuple[Tensor, Tensor]:
        x = correlated(400, 32, seed) + 1.0
        return x, x @ tensor.mT + problem.biases["b"]

    (x, wanted) = shifted(1)
    samples = replace(problem.samples, original={"x": x}, quantized={"x": x}, wanted=wanted)
    asked = replace(problem, forward=forward, samples=samples, held_out=samples)
    found = replace(STILL, bias_rate=0.01).reconstruct(asked)
    error = x @ (problem.weights["w"].start.dequantize() - tensor).mT
    left = float((error - error.mean(0)).square().sum() / wanted.square().sum())
    assert found.after == pytest.approx(left, rel=0.02) and found.after < 0.9 * found.before


def test_steps_of_activations_alone_improve() -> None:
    problem = linear()
    point = activation(problem.samples.wanted)
    wide = replace(problem, points={"y": replace(point, params=replace(point.params, scale=point.params.scale * 2))})
    found = replace(STILL, point_rate=0.01).reconstruct(wide)
    assert found.after < 0.8 * found.before
    assert torch.equal(found.choice.weights["w"].codes, problem.weights["w"].start.codes)


def test_with_every_rate_at_zero_the_start_is_kept() -> None:
    problem = linear()
    found = STILL.reconstruct(problem)
    assert not found.kept and found.after == found.before
    assert torch.equal(found.choice.weights["w"].codes, problem.weights["w"].start.codes)


def test_a_start_with_feedback_is_where_it_starts() -> None:
    """A start that is not the nearest codes is learned from, and what it learns is not nearest again."""
    weight, spec = random_weight(8, 32), Spec(Int(3), PER_ROW)
    start = Feedback(MinMax()).solve(Problem(weight, spec, random_gram(32))).qtensor
    asked = RoundedWeight(weight, start)
    nearest = quantize(weight, spec, start.params)
    assert not torch.equal(nearest.codes, start.codes)
    assert torch.equal(Moving(asked, as_it_was(asked)).stored().codes, start.codes)
    assert torch.equal(Moving(asked, as_it_was(asked)).draw(), asked.shaped(start.dequantize()))


def test_codes_may_travel_further_than_to_a_neighbour() -> None:
    """Weights that are off by five codes everywhere are led to what the output wants; rounding could not do that."""
    problem = linear(Spec(Int(8), PER_TENSOR), cols=8)
    weight = problem.weights["w"]
    start = replace(weight.start, codes=(weight.start.codes.to(torch.int16) + 5).clamp(-128, 127).to(torch.int8))
    far = replace(problem, weights={"w": RoundedWeight(start.dequantize(), start)})
    found = AdaQuant(Schedule(steps=300), rate=0.1).reconstruct(far)
    travelled = (found.choice.weights["w"].codes.to(torch.int16) - start.codes.to(torch.int16)).abs()
    assert found.after < 0.1 * noise_over_signal(far, far.start()) and float(travelled.float().mean()) > 3


def test_it_is_a_method_for_layers() -> None:
    assert AdaQuant().piece is Piece.LAYER


def test_a_negative_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        AdaQuant(bias_rate=-1.0)
