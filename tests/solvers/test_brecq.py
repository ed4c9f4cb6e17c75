"""Block reconstruction: what it gains over layers on their own, and what Fisher weights do to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from bitwright.numerics import PER_ROW, Int, QTensor, Spec
from bitwright.solvers import Brecq, Choice, Piece, Reconstruction, Samples, Schedule, Weighting
from conformance.block_solvers import noise_over_signal
from conformance.pieces import linear, residual, rounded

SCHEDULE = Schedule(steps=150)


def chain(count: int = 300) -> Reconstruction:
    """y = (x A') B' with A [2, 3] and B [2, 2] at 2 bits: small enough to try all roundings of both."""
    generator = torch.Generator().manual_seed(3)
    tensors = {"a": torch.randn(2, 3, generator=generator), "b": torch.randn(2, 2, generator=generator)}

    def forward(weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], quantize: object) -> Tensor:
        return inputs["x"] @ weights["a"].mT @ weights["b"].mT

    x = torch.randn(count, 3, generator=generator)
    samples = Samples({"x": x}, {"x": x}, forward(tensors, {"x": x}, None))
    weights = {name: rounded(tensor, Spec(Int(2), PER_ROW)) for name, tensor in tensors.items()}
    return Reconstruction(forward, weights, samples, samples)


def roundings(problem: Reconstruction, name: str) -> list[QTensor]:
    """Every way to round this weight up or down."""
    weight = problem.weights[name]
    params, values = weight.start.params, weight.start.spec.format.values()
    assert params is not None
    options = []
    for w, scale in zip(weight.matrix().flatten(), params.scale.expand(weight.start.shape).flatten(), strict=True):
        scaled = float(w / scale)
        around = {float(values[values <= scaled].max()) if scaled >= -2 else -2.0}
        around.add(float(values[values >= scaled].min()) if scaled <= 1 else 1.0)
        options.append(sorted(around))
    shape = weight.start.shape
    return [replace(weight.start, codes=torch.tensor(one).reshape(shape).to(torch.int8)) for one in product(*options)]


def test_it_comes_close_to_the_best_of_all_roundings_of_a_block() -> None:
    problem = chain()
    found = Brecq().reconstruct(problem)
    best = min(
        noise_over_signal(problem, Choice({"a": a, "b": b}, {}, {}))
        for a in roundings(problem, "a")
        for b in roundings(problem, "b")
    )
    assert best * (1 - 1e-4) <= found.after <= best + 0.2 * (found.before - best)


def test_it_is_far_better_than_nearest_on_held_out_samples() -> None:
    problem = residual()
    found = Brecq(SCHEDULE, bias_rate=0.0).reconstruct(problem)
    assert found.kept and found.after < 0.8 * found.before
    only_points = Brecq(SCHEDULE, rate=1e-9, bias_rate=0.0).reconstruct(problem)
    assert found.after < 0.9 * only_points.after


def test_biases_take_back_what_rounding_does_to_the_mean() -> None:
    problem = residual()
    without, within = (Brecq(SCHEDULE, rate=1e-9, bias_rate=rate).reconstruct(problem) for rate in (0.0, 0.001))
    assert within.after < 0.9 * without.after
    for name, bias in problem.biases.items():
        assert torch.equal(without.choice.biases[name], bias) and not torch.equal(within.choice.biases[name], bias)


def test_learned_steps_of_activations_help() -> None:
    """A range twice too wide is drawn in by learning."""
    problem = residual()
    points = {}
    for name, point in problem.points.items():
        points[name] = replace(point, params=replace(point.params, scale=point.params.scale * 2))
    wide = replace(problem, points=points)
    fixed, learned = (
        Brecq(SCHEDULE, point_rate=0.0).reconstruct(wide),
        Brecq(SCHEDULE, point_rate=0.01).reconstruct(wide),
    )
    assert learned.after < 0.8 * fixed.after
    assert all(
        torch.equal(fixed.choice.points[name].params.scale, point.params.scale) for name, point in points.items()
    )
    for name, point in points.items():
        assert float(learned.choice.points[name].params.scale) < float(point.params.scale)
        assert learned.choice.points[name].params.zero is not None


def weighed(problem: Reconstruction, fisher: Tensor) -> Reconstruction:
    """The problem with these weights on the elements of every output."""
    parts = []
    for samples in (problem.samples, problem.held_out):
        parts.append(replace(samples, fisher=fisher.expand(samples.wanted.shape).contiguous()))
    return replace(problem, samples=parts[0], held_out=parts[1])


def column_errors(problem: Reconstruction, choice: Choice) -> Tensor:
    """The held-out squared error of every output of `mixing`."""
    weights = {name: chosen.dequantize() for name, chosen in choice.weights.items()}
    output = problem.forward(weights, problem.held_out.quantized, lambda _, value: value)
    return (output - problem.held_out.wanted).square().mean(0)


def mixing() -> Reconstruction:
    """Three outputs that are sums of the same eight rounded rows: what is good for one is not for the others."""
    generator = torch.Generator().manual_seed(0)
    mix, tensor = torch.randn(8, 3, generator=generator), torch.randn(8, 16, generator=generator)

    def forward(weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], quantize: object) -> Tensor:
        return inputs["x"] @ weights["w"].mT @ mix

    x, other = torch.randn(512, 16, generator=generator), torch.randn(256, 16, generator=generator)
    parts = [Samples({"x": x}, {"x": x}, x @ tensor.mT @ mix) for x in (x, other)]
    return Reconstruction(forward, {"w": rounded(tensor, Spec(Int(2), PER_ROW))}, *parts)


@pytest.mark.parametrize("output", range(3))
def test_the_output_that_fisher_weights_stress_comes_out_better(output: int) -> None:
    problem = mixing()
    fisher = torch.full((3,), 0.01)
    fisher[output] = 1.0
    plain = Brecq(SCHEDULE).reconstruct(problem).choice
    stressed = Brecq(SCHEDULE, Weighting.FISHER).reconstruct(weighed(problem, fisher)).choice
    assert float(column_errors(problem, stressed)[output]) < 0.85 * float(column_errors(problem, plain)[output])


def test_equal_fisher_weights_are_no_weights() -> None:
    """Also on any scale: gradients of a network's loss are tiny."""
    problem = linear()
    plain = Brecq(SCHEDULE).reconstruct(problem)
    for size in (1.0, 2.0**-60):
        found = Brecq(SCHEDULE, Weighting.FISHER).reconstruct(weighed(problem, torch.full((1,), size)))
        assert found.after == pytest.approx(plain.after, rel=1e-6)
        assert torch.equal(found.choice.weights["w"].codes, plain.choice.weights["w"].codes)


def test_outputs_of_no_weight_do_not_count() -> None:
    problem = linear()
    fisher = torch.ones(8)
    fisher[4:] = 0
    found = Brecq(SCHEDULE, Weighting.FISHER).reconstruct(weighed(problem, fisher))
    kept, start = found.choice.weights["w"].codes, problem.weights["w"].start.codes
    assert float((kept[4:] == start[4:]).float().mean()) > 0.99 and not torch.equal(kept[:4], start[:4])


def test_it_is_a_method_for_blocks() -> None:
    assert Brecq().piece is Piece.BLOCK


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"rate": 0.0}, {"point_rate": -1.0}, {"bias_rate": -1.0}):
        with pytest.raises(ValueError, match="are not negative"):
            Brecq(**wrong)  # type: ignore[arg-type]
