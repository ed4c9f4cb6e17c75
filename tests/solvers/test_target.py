"""The corrected target against its normal equations, and what it is good for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitwright.numerics import MseGrid
from bitwright.solvers import (
    Corrections,
    Feedback,
    Order,
    Problem,
    Strength,
    drift_solution,
    input_correction,
    prepare,
)
from conformance.specs import asymmetric, random_gram, random_weight

COLS = 64


def streams(seed: int, tokens: int = 2000) -> tuple[Tensor, Tensor]:
    """Inputs in the original model, and the same tokens in the half-quantized one."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(COLS, COLS, generator=generator) * torch.logspace(0, -1, COLS)[:, None]
    original = torch.randn(tokens, COLS, generator=generator) @ mix
    drift = torch.randn(COLS, COLS, generator=generator) * 0.05
    noise = torch.randn(tokens, COLS, generator=generator)
    return original, original + original @ drift + 0.3 * noise


def corrected(weight: Tensor, original: Tensor, quantized: Tensor, strength: float, damp: float = 0.01) -> Tensor:
    gram = quantized.mT @ quantized / len(quantized)
    cross = (original - quantized).mT @ quantized / len(quantized)
    return Corrections(input_correction(weight, drift_solution(prepare(gram, damp, Order.ACTIVATION), cross))).apply(
        weight, Strength(strength)
    )


def test_it_satisfies_the_normal_equations() -> None:
    """W* (H + lambda I) = W G + lambda W, G = E[x x^']."""
    original, quantized = streams(0)
    weight, damp = random_weight(16, COLS), 0.02
    gram = (quantized.mT @ quantized / len(quantized)).double()
    mixed = (original.mT @ quantized / len(quantized)).double()
    ridge = damp * float(gram.diagonal().mean())
    found = corrected(weight, original, quantized, 1.0, damp).double()
    left = found @ (gram + ridge * torch.eye(COLS))
    right = weight.double() @ mixed + ridge * weight.double()
    assert torch.allclose(left, right, rtol=1e-4, atol=1e-4 * float(right.abs().mean()))


def test_it_is_least_squares_for_the_original_output() -> None:
    original, quantized = streams(1)
    weight = random_weight(16, COLS)
    best = torch.linalg.lstsq(quantized.double(), original.double() @ weight.double().mT).solution.mT
    assert torch.allclose(corrected(weight, original, quantized, 1.0, 1e-8).double(), best, rtol=1e-3, atol=1e-3)


def test_without_drift_the_target_is_the_weight() -> None:
    weight, gram = random_weight(16, COLS), random_gram(COLS)
    solved = drift_solution(prepare(gram, 0.01, Order.NATURAL), torch.zeros(COLS, COLS))
    assert torch.equal(Corrections(input_correction(weight, solved)).apply(weight, Strength(1.0)), weight)


def test_strength_zero_is_the_weight_itself() -> None:
    original, quantized = streams(2)
    weight = random_weight(16, COLS)
    assert corrected(weight, original, quantized, 0.0) is weight


def test_strength_scales_each_correction() -> None:
    weight, inputs, stream = random_weight(4, 8), torch.randn(4, 8), torch.randn(4, 8)
    found = Corrections(inputs, stream).apply(weight, Strength(0.5, 0.25))
    assert torch.allclose(found, weight + 0.5 * inputs + 0.25 * stream)
    assert Corrections().apply(weight, Strength(1.0, 1.0)) is weight


@pytest.mark.parametrize("entry", [torch.nan, 1e6])
def test_a_gram_matrix_that_cannot_be_solved_corrects_nothing(entry: float) -> None:
    gram = random_gram(COLS)
    gram[2, 3] = gram[3, 2] = entry
    assert drift_solution(prepare(gram, 0.01, Order.ACTIVATION), torch.ones(3, COLS)) is None
    assert input_correction(random_weight(4, COLS), None) is None


def test_the_gram_matrix_is_left_alone() -> None:
    gram = random_gram(COLS).double()  # already float64: `double()` would not copy it
    before = gram.clone()
    drift_solution(prepare(gram, 0.01, Order.ACTIVATION), torch.ones(3, COLS))
    assert torch.equal(gram, before)


def test_rounding_the_corrected_target_lowers_the_asymmetric_loss() -> None:
    """Mean over seeds of |X^ Q' - X W'|^2 on tokens that were not used: full <= half <= no correction."""
    solver, spec = Feedback(MseGrid(steps=6)), asymmetric(3, 32)
    totals = {1.0: 0.0, 0.5: 0.0, 0.0: 0.0}
    for seed in range(8):
        original, quantized = streams(seed)
        seen, held = slice(0, 1500), slice(1500, None)
        weight = random_weight(16, COLS, seed)
        gram = quantized[seen].mT @ quantized[seen] / 1500
        for strength in totals:
            target = corrected(weight, original[seen], quantized[seen], strength)
            value = solver.solve(Problem(target, spec, gram)).qtensor.dequantize()
            totals[strength] += float((quantized[held] @ value.mT - original[held] @ weight.mT).square().mean())
    assert totals[1.0] < totals[0.5] < totals[0.0]
