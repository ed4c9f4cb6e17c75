"""The block solvers in the conformance table, on every piece; the loss; problems that cannot be worked on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bitwright import solvers
from bitwright.numerics import PER_ROW, Int, MinMax, Spec
from bitwright.solvers import (
    Activation,
    AdaRound,
    BlockSolver,
    Brecq,
    Reconstruction,
    RoundedWeight,
    Samples,
    Schedule,
    Weighting,
)
from bitwright.solvers.reconstruction import squared_error
from conformance.block_solvers import BLOCK_SOLVERS, CHECKS, PIECES
from conformance.pieces import UINT4, linear, residual, rounded

QUICK = ("linear int3", "linear uint2", "linear nf4", "residual int3")
MATRIX = [
    pytest.param(solver, piece, id=f"{method}-{piece}", marks=() if piece in QUICK else pytest.mark.slow)
    for method, solver in BLOCK_SOLVERS.items()
    for piece in PIECES
]


@pytest.mark.parametrize(("solver", "piece"), MATRIX)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_block_solver_conforms(check: Callable[[BlockSolver, str], None], solver: BlockSolver, piece: str) -> None:
    check(solver, piece)


def test_every_exported_block_solver_is_in_the_table() -> None:
    exported = [vars(solvers)[name] for name in solvers.__all__]
    kinds = {one for one in exported if isinstance(one, type) and issubclass(one, BlockSolver)} - {BlockSolver}
    assert kinds == {type(solver) for solver in BLOCK_SOLVERS.values()}


def test_the_error_of_a_whole_is_the_sum_over_its_elements() -> None:
    torch.manual_seed(0)
    wanted, output, fisher = torch.randn(5, 3, 2), torch.randn(5, 3, 2), torch.rand(5, 3, 2)
    samples = Samples({}, {}, wanted, fisher)
    for weighting, weights in (
        (Weighting.PLAIN, torch.ones(30).tolist()),
        (Weighting.FISHER, fisher.flatten().tolist()),
    ):
        noise, signal = squared_error(output, samples, weighting)
        pairs = list(zip(weights, output.flatten().tolist(), wanted.flatten().tolist(), strict=True))
        assert float(noise) == pytest.approx(sum(f * (a - b) ** 2 for f, a, b in pairs), rel=1e-5)
        assert float(signal) == pytest.approx(sum(f * b**2 for f, _, b in pairs), rel=1e-5)


def test_a_weight_of_any_shape_is_a_matrix_and_back() -> None:
    tensor = torch.randn(3, 5, 2, 4)
    for axis in range(4):
        weight = rounded(tensor, Spec(Int(4), PER_ROW), axis)
        matrix = weight.matrix()
        assert matrix.shape == (tensor.shape[axis], tensor.numel() // tensor.shape[axis])
        assert torch.equal(matrix[1], tensor.select(axis, 1).flatten())
        assert torch.equal(weight.shaped(matrix), tensor)


def test_samples_are_cut_in_order() -> None:
    samples = linear(count=10).samples
    parts = list(samples.batches(4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([part.quantized["x"] for part in parts]), samples.quantized["x"])


def broken(problem: Reconstruction, **changes: Tensor) -> Reconstruction:
    """The problem with one of its samples' tensors changed."""
    parts = {
        "original": problem.samples.original,
        "quantized": problem.samples.quantized,
        "wanted": problem.samples.wanted,
    }
    return replace(problem, samples=Samples(**{**parts, **changes}))  # type: ignore[arg-type]


def spoilt(values: Tensor) -> Tensor:
    values = values.clone()
    values[7, 3] = torch.nan
    return values


def many_scales(problem: Reconstruction) -> Reconstruction:
    spec = Spec(Int(8), PER_ROW)
    point = Activation(spec, MinMax().fit(spec, problem.samples.wanted))
    return replace(problem, points={"y": point})


def wrong_codes(problem: Reconstruction) -> Reconstruction:
    weight = problem.weights["w"]
    return replace(problem, weights={"w": RoundedWeight(weight.tensor, weight.start, axis=1)})


BROKEN: dict[str, tuple[Callable[[Reconstruction], Reconstruction], str]] = {
    "nothing to learn": (lambda p: replace(p, weights={}), "nothing to learn"),
    "no samples": (lambda p: replace(p, samples=p.samples.take(torch.arange(0))), "no learning samples"),
    "no held-out samples": (lambda p: replace(p, held_out=p.held_out.take(torch.arange(0))), "no held-out samples"),
    "an input that is no number": (
        lambda p: broken(p, quantized={"x": spoilt(p.samples.quantized["x"])}),  # type: ignore[arg-type]
        "x: learning sample 7 holds numbers that are not finite",
    ),
    "an output that is no number": (
        lambda p: broken(p, wanted=spoilt(p.samples.wanted)),
        "wanted output: learning sample 7",
    ),
    "too few inputs": (
        lambda p: broken(p, quantized={"x": p.samples.quantized["x"][:-1]}),  # type: ignore[arg-type]
        "255 learning samples, but 256 wanted outputs",
    ),
    "another output": (lambda p: broken(p, wanted=p.samples.wanted[:, :-1]), r"gives \(32, 8\) where \(32, 7\)"),
    "many scales": (many_scales, "y: 256 scales"),
    "codes of another matrix": (wrong_codes, r"w: codes are \(8, 32\), but slices along axis 1 make \(32, 8\)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_problem_that_cannot_be_worked_on_is_refused_with_its_cause(name: str) -> None:
    breaks, message = BROKEN[name]
    with pytest.raises(ValueError, match=message):
        AdaRound(Schedule(steps=2)).reconstruct(breaks(linear()))


def test_fisher_weights_are_asked_for_where_they_are_used() -> None:
    with pytest.raises(ValueError, match="no Fisher weights"):
        Brecq(weighting=Weighting.FISHER).reconstruct(linear())


def test_a_learning_rate_that_explodes_ends_with_the_start_and_says_so() -> None:
    problem = residual()
    broken_forward = problem.forward

    def forward(weights, inputs, quantize):  # type: ignore[no-untyped-def]
        output = broken_forward(weights, inputs, quantize)
        return output * torch.nan if weights["first"].requires_grad else output

    found = AdaRound(Schedule(steps=5)).reconstruct(replace(problem, forward=forward))
    assert not found.kept and found.steps == 0 and found.after == found.before
    assert any("learning ended there" in note for note in found.notes)
    assert all(torch.equal(found.choice.weights[k].codes, w.start.codes) for k, w in problem.weights.items())


def test_cached_halves_and_indices_are_usable() -> None:
    problem = linear()
    half = {"x": problem.samples.quantized["x"].half()}
    found = AdaRound(Schedule(steps=20)).reconstruct(broken(problem, quantized=half, original=half))  # type: ignore[arg-type]
    assert found.after < found.before
    ids = torch.randint(32, (64, 3))
    table = problem.weights["w"].tensor.mT.contiguous()

    def forward(weights, inputs, quantize):  # type: ignore[no-untyped-def]
        return weights["table"][inputs["ids"]].sum(1)

    samples = Samples({"ids": ids}, {"ids": ids}, table[ids].sum(1))
    asked = Reconstruction(forward, {"table": rounded(table, Spec(Int(2), PER_ROW))}, samples, samples)
    assert solvers.QDrop(Schedule(steps=20)).reconstruct(asked).after <= AdaRound(Schedule(1)).reconstruct(asked).before
    assert UINT4.zero is not None
