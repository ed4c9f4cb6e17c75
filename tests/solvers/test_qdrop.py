"""QDrop: without dropping it is BRECQ, and dropping is what it says it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bitwright.solvers import Brecq, Piece, QDrop, Reconstructed, Schedule
from bitwright.solvers.points import Points, coins
from conformance.pieces import linear, residual

SCHEDULE = Schedule(steps=100)


def same(one: Reconstructed, other: Reconstructed) -> bool:
    """Whether two answers are the same bits."""
    weights = all(torch.equal(q.codes, other.choice.weights[name].codes) for name, q in one.choice.weights.items())
    points = all(torch.equal(p.params.scale, other.choice.points[n].params.scale) for n, p in one.choice.points.items())
    return weights and points and (one.before, one.after, one.steps) == (other.before, other.after, other.steps)


def test_dropping_nothing_is_block_reconstruction() -> None:
    problem = residual()
    assert same(QDrop(SCHEDULE, drop=0.0).reconstruct(problem), Brecq(SCHEDULE).reconstruct(problem))
    assert not same(QDrop(SCHEDULE).reconstruct(problem), Brecq(SCHEDULE).reconstruct(problem))


def test_dropping_everything_learns_on_the_original_network() -> None:
    """With no quantized element left, points and drifted inputs play no part in what is learned."""
    problem = residual()
    clean = replace(problem, points={}, samples=replace(problem.samples, quantized=problem.samples.original))
    one = QDrop(SCHEDULE, drop=1.0).reconstruct(replace(problem, held_out=clean.samples, points={}))
    other = Brecq(SCHEDULE).reconstruct(replace(clean, held_out=clean.samples))
    assert same(one, other)


def test_it_is_better_than_nearest_on_held_out_samples() -> None:
    found = QDrop(SCHEDULE).reconstruct(residual())
    assert found.kept and found.after < 0.8 * found.before


def test_another_seed_is_another_answer() -> None:
    problem = residual()
    assert not same(QDrop(SCHEDULE).reconstruct(problem), QDrop(SCHEDULE).reconstruct(replace(problem, seed=5)))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_this_share_of_the_elements_is_left_unquantized(share: float) -> None:
    problem = residual()
    values = problem.samples.quantized["x"]
    found = Points(problem.points, 0.0).learning(share, torch.Generator().manual_seed(0))("x", values)
    quantized = problem.points["x"].apply(values)
    different = values != quantized
    left = (found == values)[different].float().mean()
    assert float(left) == pytest.approx(share, abs=0.02)
    assert bool(((found == values) | (found == quantized)).all())


def test_a_value_that_is_no_point_passes() -> None:
    values = torch.randn(3, 4)
    generator = torch.Generator().manual_seed(0)
    assert Points(residual().points, 0.1).learning(0.5, generator)("elsewhere", values) is values


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_coins_come_from_the_generator_alone_and_fall_evenly(share: float) -> None:
    shape = torch.Size((8, 5000))
    one, other = (coins(shape, share, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.allclose(one.float().mean(1), torch.full((8,), share), atol=0.03)
    eighths = one.flatten().reshape(-1, 8).float()  # those that one draw decides are independent
    assert torch.allclose(eighths.mean(0), torch.full((8,), share), atol=0.03)
    if 0 < share < 1:
        assert float((torch.corrcoef(eighths.mT) - torch.eye(8)).abs().max()) < 0.06


def test_it_is_a_method_for_blocks() -> None:
    assert QDrop().piece is Piece.BLOCK


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        QDrop(drop=1.5).reconstruct(linear())
