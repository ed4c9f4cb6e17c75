"""What every block solver has to satisfy on every piece. Outsiders: `check(solver, piece)` for `check` in CHECKS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from bitwright.numerics import E2M1, NF4, PER_ROW, PER_TENSOR, Float, FloatKind, Int, Spec, Tile, per_group
from bitwright.solvers import (
    AdaQuant,
    AdaRound,
    BlockSolver,
    Brecq,
    Choice,
    Progress,
    QDrop,
    Reconstructed,
    Reconstruction,
    Samples,
    Schedule,
)
from conformance.pieces import INT3, linear, residual, rounded

SHORT = Schedule(steps=40, checks=2)
BLOCK_SOLVERS: dict[str, BlockSolver] = {
    "AdaRound": AdaRound(SHORT),
    "AdaQuant": AdaQuant(SHORT),
    "Brecq": Brecq(SHORT),
    "QDrop": QDrop(SHORT),
}

UINT2 = Spec(Int(2, signed=False), PER_ROW, zero=Spec(Int(2, signed=False)))
K_QUANT = Spec(Int(4), per_group(8), scale=Spec(Int(6), Tile(1, 4), scale=Spec(Float(FloatKind.FLOAT16))))
PIECES: dict[str, Callable[[], Reconstruction]] = {
    "linear int3": lambda: linear(INT3),
    "linear int8": lambda: linear(Spec(Int(8), PER_TENSOR)),
    "linear int4 group": lambda: linear(Spec(Int(4), per_group(8), scale=Spec(Float(FloatKind.FLOAT16)))),
    "linear uint2": lambda: linear(UINT2),
    "linear nf4": lambda: linear(Spec(NF4, PER_ROW)),
    "linear float4": lambda: linear(Spec(E2M1(), per_group(16))),
    "linear nested scales": lambda: linear(K_QUANT),
    "residual int3": lambda: residual(INT3),
    "residual int4 per tensor": lambda: residual(Spec(Int(4), PER_TENSOR)),
}


@cache
def piece(name: str) -> Reconstruction:
    return PIECES[name]()


@cache
def answer(solver: BlockSolver, name: str) -> Reconstructed:
    """The answer to this piece, found once for all checks."""
    return solver.reconstruct(piece(name))


def noise_over_signal(problem: Reconstruction, choice: Choice) -> float:
    """The held-out error, from the definition: all samples at once, in float64."""
    weights: dict[str, Tensor] = {}
    for name, one in problem.weights.items():
        moved = one.tensor.movedim(one.axis, 0)
        weights[name] = choice.weights[name].dequantize().reshape(moved.shape).movedim(0, one.axis).double()
    weights |= {name: bias.double() for name, bias in choice.biases.items()}

    def quantize(name: str, value: Tensor) -> Tensor:
        if name not in choice.points:
            return value
        point = choice.points[name]
        scale, zero = float(point.params.scale), float(point.params.zero or 0)
        return (point.spec.format.nearest(value / scale + zero) - zero) * scale

    inputs = {name: value.double() for name, value in problem.held_out.quantized.items()}
    error = problem.forward(weights, inputs, quantize) - problem.held_out.wanted.double()
    return float(error.square().sum() / problem.held_out.wanted.double().square().sum())


def the_answer_is_a_finite_choice_of_those_specs(solver: BlockSolver, name: str) -> None:
    asked, found = piece(name), answer(solver, name)
    assert found.choice.weights.keys() == asked.weights.keys() and found.choice.points.keys() == asked.points.keys()
    assert found.choice.biases.keys() == asked.biases.keys() and found.steps >= 1
    for key, qtensor in found.choice.weights.items():
        start = asked.weights[key].start
        assert qtensor.spec == start.spec and qtensor.shape == start.shape and qtensor.codes.dtype == start.codes.dtype
        assert bool(torch.isfinite(qtensor.dequantize()).all())
        packed = qtensor.spec.format.pack(qtensor.codes)
        assert torch.equal(qtensor.spec.format.unpack(packed, qtensor.shape), qtensor.codes)
        assert not qtensor.dequantize().requires_grad
    for point in found.choice.points.values():
        assert bool(torch.isfinite(point.params.scale).all()) and float(point.params.scale) > 0


def the_errors_are_those_of_the_start_and_of_the_answer(solver: BlockSolver, name: str) -> None:
    asked, found = piece(name), answer(solver, name)
    for error, choice in ((found.before, asked.start()), (found.after, found.choice)):
        assert abs(error - noise_over_signal(asked, choice)) <= 2e-3 * error  # float32 may round one value otherwise


def the_answer_is_no_worse_than_the_start(solver: BlockSolver, name: str) -> None:
    found = answer(solver, name)
    assert found.after <= found.before
    assert found.kept == (not found.notes)


def the_same_question_has_the_same_bits_for_an_answer_and_is_left_alone(solver: BlockSolver, name: str) -> None:
    untouched = {key: weight.tensor.clone() for key, weight in piece(name).weights.items()}
    one, again = answer(solver, name), PIECES[name]()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    other = solver.reconstruct(again)
    assert torch.equal(torch.get_rng_state(), before)
    assert (one.before, one.after, one.steps, one.notes) == (other.before, other.after, other.steps, other.notes)
    for key, qtensor in one.choice.weights.items():
        assert torch.equal(qtensor.codes, other.choice.weights[key].codes)
        assert torch.equal(qtensor.dequantize(), other.choice.weights[key].dequantize())
        assert torch.equal(piece(name).weights[key].tensor, untouched[key])
    assert all(torch.equal(bias, other.choice.biases[key]) for key, bias in one.choice.biases.items())
    for key, point in one.choice.points.items():
        assert torch.equal(point.params.scale, other.choice.points[key].params.scale)


def a_weight_on_the_grid_is_returned(solver: BlockSolver, name: str) -> None:
    asked = piece(name)
    weights = {}
    for key, weight in asked.weights.items():
        moved = weight.shaped(weight.start.dequantize())
        weights[key] = replace(weight, tensor=moved)

    def exact(samples: Samples) -> Samples:
        tensors = {key: weight.tensor for key, weight in weights.items()} | dict(asked.biases)
        inputs = dict(samples.quantized)
        wanted = asked.forward(tensors, inputs, lambda key, v: asked.points[key].apply(v) if key in asked.points else v)
        return Samples(inputs, inputs, wanted)

    given = replace(asked, weights=weights, samples=exact(asked.samples), held_out=exact(asked.held_out))
    found = solver.reconstruct(given)
    assert found.before == found.after == 0.0
    assert all(found.choice.weights[key] is weight.start for key, weight in weights.items())


def progress_is_told(solver: BlockSolver, name: str) -> None:
    told: list[Progress] = []
    found = solver.reconstruct(replace(piece(name), progress=told.append))
    assert [one.step for one in told] == list(range(1, found.steps + 1))
    assert all(one.steps == SHORT.steps and one.loss >= 0 and one.seconds_left >= 0 for one in told)
    assert found.steps < SHORT.steps or told[-1].seconds_left == 0


def the_rows_may_lie_along_another_axis(solver: BlockSolver, name: str) -> None:
    asked = piece(name)
    if "w" not in asked.weights:
        return
    spec, tensor = asked.weights["w"].start.spec, asked.weights["w"].tensor

    def forward(weights, inputs, quantize):  # type: ignore[no-untyped-def]
        return asked.forward({**weights, "w": weights["w"].mT}, inputs, quantize)

    turned = replace(asked, forward=forward, weights={"w": rounded(tensor.mT.contiguous(), spec, axis=1)})
    found = solver.reconstruct(turned)
    assert torch.equal(found.choice.weights["w"].codes, answer(solver, name).choice.weights["w"].codes)


CHECKS = (
    the_answer_is_a_finite_choice_of_those_specs,
    the_errors_are_those_of_the_start_and_of_the_answer,
    the_answer_is_no_worse_than_the_start,
    the_same_question_has_the_same_bits_for_an_answer_and_is_left_alone,
    a_weight_on_the_grid_is_returned,
    progress_is_told,
    the_rows_may_lie_along_another_axis,
)
