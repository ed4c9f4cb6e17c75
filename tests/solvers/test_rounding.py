"""The rounding variable: it starts at the original weight and ends at one of the two numbers around it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitwright.numerics import Int, MinMax, Spec, per_group, quantize
from bitwright.solvers import Feedback, Problem, RoundedWeight
from bitwright.solvers.rounding import Rounding, neighbours, unsettled
from conformance.pieces import rounded
from conformance.specs import SPECS, random_gram, random_weight

ROWS, COLS = 8, 128
EVERY = {name: spec for name, spec in SPECS.items() if name != "fp8_block"} | {
    "int4_clipped": Spec(Int(4), per_group(64))
}


def weight_of(name: str) -> RoundedWeight:
    """A weight of this spec; `int4_clipped`: one whose scales leave a fifth of the weights out of range."""
    weight = random_weight(ROWS, COLS)
    if name != "int4_clipped":
        return rounded(weight, EVERY[name])
    params = MinMax().fit(EVERY[name], weight)
    params.scale.mul_(0.3)
    return RoundedWeight(weight, quantize(weight, EVERY[name], params))


def scaled_of(weight: RoundedWeight) -> tuple[Tensor, Tensor, Tensor]:
    """The weight in units of its scale, and every weight's scale and zero, float64."""
    spec, params = weight.start.spec, weight.start.params
    assert params is not None and spec.tile is not None
    scale = spec.tile.spread(params.scale, (ROWS, COLS)).double()
    zero = torch.zeros(ROWS, COLS) if params.zero is None else spec.tile.spread(params.zero, (ROWS, COLS))
    return weight.tensor.double() / scale + zero, scale, zero.double()


@pytest.mark.parametrize("name", EVERY)
def test_the_soft_weight_starts_as_the_original(name: str) -> None:
    weight = weight_of(name)
    rounding = Rounding(weight)
    scaled, scale, zero = scaled_of(weight)
    form = weight.start.spec.format
    clamped = (scaled.clamp(form.low, form.high) - zero) * scale
    gaps = (form.values()[1:] - form.values()[:-1]).max() * scale.abs()
    soft = rounding.soft(rounding.share()).double()
    assert bool(((soft - clamped).abs() <= 0.021 * gaps + 1e-5).all())  # shares start 0.02 from an end
    inner = rounding.free & (rounding.share() > 0.03) & (rounding.share() < 0.97)
    assert bool(((soft - clamped).abs() <= 1e-5 * gaps.clamp(min=1))[inner].all())


@pytest.mark.parametrize("name", EVERY)
def test_hard_rounding_is_the_number_below_or_above(name: str) -> None:
    weight = weight_of(name)
    rounding, (scaled, _, _) = Rounding(weight), scaled_of(weight)
    values = weight.start.spec.format.values().double()
    torch.manual_seed(0)
    for logits in (torch.randn(ROWS, COLS), torch.full((ROWS, COLS), 9.0), torch.full((ROWS, COLS), -9.0)):
        rounding.logits.data.copy_(logits)
        level = weight.start.spec.format.decode(rounding.hard().codes).double()
        for i in range(0, ROWS * COLS, 17):  # by a search over the list of numbers
            x, found = float(scaled.flatten()[i]), float(level.flatten()[i])
            below = [v for v in values.tolist() if v <= x + 1e-6] or [float(values[0])]
            above = [v for v in values.tolist() if v >= x - 1e-6] or [float(values[-1])]
            up = float(logits.flatten()[i]) >= 0
            next_up = [v for v in values.tolist() if v > below[-1]] or [below[-1]]  # a weight on a number
            assert found in ((above[0], next_up[0]) if up else (below[-1],)) or below[-1] == above[0]


@pytest.mark.parametrize("name", EVERY)
def test_undecided_shares_round_to_nearest(name: str) -> None:
    weight = weight_of(name)
    agree = Rounding(weight).hard().dequantize() == weight.start.dequantize()
    assert float(agree.float().mean()) > 0.995  # ties may differ


def test_a_weight_out_of_range_stays_at_the_end() -> None:
    weight = weight_of("int4_clipped")
    rounding, (scaled, _, _) = Rounding(weight), scaled_of(weight)
    outside = (scaled < -8) | (scaled >= 7)
    assert float(outside.float().mean()) > 0.1 and torch.equal(rounding.free, ~outside)
    for logit in (-5.0, 5.0):
        rounding.logits.data.fill_(logit)
        codes = rounding.hard().codes[outside]
        assert torch.equal(codes, torch.where(scaled[outside] < 0, -8, 7).to(codes.dtype))


def test_a_start_with_feedback_is_one_of_the_two_neighbours() -> None:
    weight, spec = random_weight(ROWS, COLS), SPECS["int3_asymmetric"]
    start = Feedback(MinMax()).solve(Problem(weight, spec, random_gram(COLS))).qtensor
    rounding = Rounding(RoundedWeight(weight, start))
    begun = spec.format.decode(start.codes)
    further = (begun != rounding.near.below) & (begun != rounding.near.above)
    assert not bool(further.any())
    assert float((begun != spec.format.decode(rounding.hard().codes)).float().mean()) > 0.01


def test_neighbours_by_hand() -> None:
    scaled = torch.tensor([[-9.0, -1.2, 0.4, 0.4, 0.4, 3.0, 9.0]])
    start = torch.tensor([[-8.0, -1.0, 0.0, 3.0, -2.0, 3.0, 7.0]])
    found = neighbours(Int(4), scaled, start)
    assert found.below.tolist() == [[-8.0, -2.0, 0.0, 2.0, -2.0, 3.0, 7.0]]
    assert found.above.tolist() == [[-8.0, -1.0, 1.0, 3.0, -1.0, 4.0, 7.0]]


def test_shares_go_to_an_end_as_they_sharpen() -> None:
    rounding = Rounding(weight_of("int4"))
    before = rounding.share()
    assert unsettled(before) > 0.9 * int(rounding.free.sum())
    half, nearly = rounding.share(4.0), rounding.share(1e6)
    assert bool(((half - 0.5).abs() >= (before - 0.5).abs() - 1e-6).all())
    assert unsettled(nearly) <= 1 and torch.equal(nearly.round(), (rounding.logits >= 0).float())


def test_a_settled_share_is_at_an_end() -> None:
    assert unsettled(torch.tensor([[0.0, 0.5, 0.02, 1.0]])) == 2
