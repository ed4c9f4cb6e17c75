"""The loop: its minibatches, its schedule, when it ends, and what it falls back to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bitwright import solvers
from bitwright.numerics import MinMax
from bitwright.numerics.plain import from_plain, to_plain
from bitwright.solvers import AdaRound, BlockSolver, Brecq, Feedback, Problem, QDrop, RoundedWeight, Schedule, Weighting
from bitwright.solvers.learning import minibatches
from conformance.pieces import INT3, correlated, linear, residual


def test_minibatches_see_every_sample_equally_often() -> None:
    rows = torch.cat(list(minibatches(count=10, size=4, steps=25, seed=0)))
    assert torch.equal(rows.bincount(), torch.full((10,), 10))
    assert all(len(part) == 4 for part in minibatches(10, 4, 25, 0))


def test_minibatches_depend_on_the_seed_alone() -> None:
    one, other, third = (torch.cat(list(minibatches(50, 8, 20, seed))) for seed in (1, 1, 2))
    assert torch.equal(one, other) and not torch.equal(one, third)


def test_a_batch_is_as_large_as_its_outputs_allow() -> None:
    samples = linear(rows=8, count=100).samples  # eight output elements each
    sizes = [Schedule(batch=32, elements=elements).size(samples) for elements in (1, 40, 80, 10_000)]
    assert sizes == [4, 5, 10, 32]
    assert Schedule(batch=2).size(samples) == 2 and Schedule(batch=500).size(samples) == 100
    assert Schedule().size(samples.take(torch.arange(3))) == 3


def test_sharpness_grows_evenly_from_one() -> None:
    schedule = Schedule(steps=100, sharpness=256.0)
    assert schedule.sharp(0) == 1.0 and schedule.sharp(100) == pytest.approx(256.0)
    assert schedule.sharp(75) / schedule.sharp(50) == pytest.approx(schedule.sharp(50) / schedule.sharp(25))


def test_it_ends_early_once_nothing_is_undecided() -> None:
    found = AdaRound(Schedule(steps=400, sharpness=1e6, checks=40)).reconstruct(linear())
    assert found.kept and found.steps < 400
    longer = AdaRound(Schedule(steps=400)).reconstruct(linear())
    assert longer.after < longer.before


def test_learning_that_misleads_is_not_kept() -> None:
    """Learning samples that want the opposite output; the held-out ones say that it did not help."""
    problem = linear()
    found = AdaRound().reconstruct(replace(problem, samples=replace(problem.samples, wanted=-problem.samples.wanted)))
    assert not found.kept and found.after == found.before
    assert found.notes == ("learning did not lower the error on the held-out samples: kept the starting codes",)
    assert torch.equal(found.choice.weights["w"].codes, problem.weights["w"].start.codes)


def test_nearest_is_kept_if_it_is_better_than_start_and_learning() -> None:
    problem = linear()
    weight = problem.weights["w"]
    spoilt = replace(weight.start, codes=-weight.start.codes)
    given = replace(problem, weights={"w": RoundedWeight(weight.tensor, spoilt)})
    found = AdaRound(Schedule(steps=1), rate=1e-6).reconstruct(given)
    assert found.after < found.before
    assert torch.equal(found.choice.weights["w"].codes, weight.start.codes)
    assert not found.kept and "kept the nearest codes" in found.notes[0]


def test_a_start_with_feedback_is_never_made_worse() -> None:
    problem = linear(rows=16, cols=64, count=512)
    x = problem.samples.quantized["x"]
    tensor = problem.weights["w"].tensor
    start = Feedback(MinMax()).solve(Problem(tensor, INT3, x.mT @ x / len(x))).qtensor
    found = AdaRound().reconstruct(replace(problem, weights={"w": RoundedWeight(tensor, start)}))
    assert found.before < AdaRound(Schedule(1)).reconstruct(problem).before
    assert found.after <= found.before
    assert found.kept or torch.equal(found.choice.weights["w"].codes, start.codes)


def test_a_batch_larger_than_all_samples_is_all_of_them() -> None:
    problem = linear(count=20)
    one, other = (AdaRound(Schedule(steps=30, batch=batch)).reconstruct(problem) for batch in (20, 500))
    assert torch.equal(one.choice.weights["w"].codes, other.choice.weights["w"].codes)


def test_points_alone_can_be_learned() -> None:
    problem = residual()
    wide = {name: replace(p, params=replace(p.params, scale=p.params.scale * 2)) for name, p in problem.points.items()}
    biases = {name: weight.tensor for name, weight in problem.weights.items()} | dict(problem.biases)
    asked = replace(problem, weights={}, biases=biases, points=wide)
    found = Brecq(Schedule(steps=100), point_rate=0.01).reconstruct(asked)
    assert found.kept and found.after < 0.7 * found.before
    still = Brecq(point_rate=0.0, bias_rate=0.0).reconstruct(asked)
    assert still.steps == 0 and not still.kept and "nothing to learn" in still.notes[0]


def test_the_units_of_the_network_do_not_matter() -> None:
    """Inputs, weights and outputs on other scales (powers of two) give the same codes."""
    problem = linear()
    weight = problem.weights["w"]
    small = replace(weight, tensor=weight.tensor * 2.0**-12)
    assert weight.start.scale is not None
    start = replace(weight.start, scale=replace(weight.start.scale, codes=weight.start.scale.codes * 2.0**-12))
    parts = []
    for samples in (problem.samples, problem.held_out):
        x = {"x": samples.quantized["x"] * 2.0**-3}
        parts.append(replace(samples, original=x, quantized=x, wanted=samples.wanted * 2.0**-15))
    biases = {"b": problem.biases["b"] * 2.0**-15}
    weights = {"w": replace(small, start=start)}
    found = AdaRound().reconstruct(
        replace(problem, weights=weights, samples=parts[0], held_out=parts[1], biases=biases)
    )
    expected = AdaRound().reconstruct(problem)
    assert found.after == pytest.approx(expected.after, rel=1e-4)
    agree = found.choice.weights["w"].codes == expected.choice.weights["w"].codes
    assert float(agree.float().mean()) > 0.99


@pytest.mark.parametrize("name", ["steps", "batch", "elements", "checks", "sharpness"])
def test_schedules_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Schedule(**{name: 0})  # type: ignore[arg-type]


def test_block_solvers_are_plain_data() -> None:
    classes = {name: vars(solvers)[name] for name in solvers.__all__ if isinstance(vars(solvers)[name], type)}
    for solver in (AdaRound(rate=0.1), Brecq(weighting=Weighting.FISHER), QDrop(Schedule(steps=7), drop=0.25)):
        assert from_plain(to_plain(solver), BlockSolver, classes) == solver


def test_correlated_inputs_come_from_one_distribution() -> None:
    one, other = correlated(4000, 8, 1), correlated(4000, 8, 2)
    assert torch.allclose(one.mT @ one / 4000, other.mT @ other / 4000, atol=1.0)
