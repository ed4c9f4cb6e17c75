from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from bitwright.numerics import E2M1, NF4, AbsMax, Int, MinMax, PowerOfTwo, Spec, per_group, quantize
from bitwright.recipe.presets import OWN, asymmetric
from bitwright.solvers import RoundedWeight
from bitwright.solvers.moving import Moving, towards
from bitwright.tune.learner import Learner, Tuning


def moving(spec: Spec, seed: int = 0) -> Moving:
    matrix = torch.randn(6, 32, generator=torch.Generator().manual_seed(seed))
    qtensor = quantize(matrix, spec, (MinMax() if spec.zero is not None else AbsMax()).fit(spec, matrix))
    return Moving(RoundedWeight(matrix, qtensor), towards(RoundedWeight(matrix, qtensor)))


INTEGERS = asymmetric(3, 16).resolve(torch.float32)
GRID = Spec(NF4, per_group(16), scale=OWN).resolve(torch.float32)


def by_the_book(gradients: list[Tensor], rate: float) -> Tensor:
    """Adam in float64: averages without bias, each written out as the sum that it is."""
    place, steps = torch.zeros_like(gradients[0], dtype=torch.float64), len(gradients)
    for step in range(steps):
        seen = [one.double() for one in gradients[: step + 1]]
        shares = [0.1 * 0.9 ** (step - k) for k in range(step + 1)]
        mean = sum(s * g for s, g in zip(shares, seen, strict=True)) / sum(shares)
        shares = [0.001 * 0.999 ** (step - k) for k in range(step + 1)]
        square = sum(s * g.square() for s, g in zip(shares, seen, strict=True)) / sum(shares)
        place -= rate * 0.5 * (1 + math.cos(math.pi * step / steps)) * mean / square.sqrt()
    return place


@pytest.mark.parametrize(("spec", "unit", "spaces"), [(INTEGERS, 1.0, 7), (GRID, 2 / 15, 15)])
def test_steps_are_those_of_the_book(spec: Spec, unit: float, spaces: int) -> None:
    weight = moving(spec)
    learner = Learner({"w": weight}, Tuning(rate=0.01), steps=7)
    generator = torch.Generator().manual_seed(1)
    given: dict[str, list[Tensor]] = {"move": [], "factor": []}
    for _ in range(7):
        for name, tensor in (("move", weight.move), ("factor", weight.factor)):
            tensor.grad = torch.randn(tensor.shape, generator=generator) * (1e-3 if name == "move" else 1e3)
            given[name].append(tensor.grad.clone())
        learner.step()
    assert torch.allclose(weight.move.double(), by_the_book(given["move"], 0.01 * unit), rtol=1e-3, atol=1e-7)
    assert torch.allclose(weight.factor.double(), by_the_book(given["factor"], 0.01 / spaces), rtol=1e-3, atol=1e-8)


def test_a_state_goes_on_as_if_it_had_not_been_stored() -> None:
    ways: list[Tensor] = []
    for stops in (False, True):
        weight = moving(INTEGERS)
        learner = Learner({"w": weight}, Tuning(), steps=4)
        for step in range(4):
            if stops and step == 2:
                state = {name: value.clone() for name, value in learner.state().items()}
                weight = moving(INTEGERS)
                learner = Learner({"w": weight}, Tuning(), steps=4)
                learner.restore(state, 2)
            generator = torch.Generator().manual_seed(step)
            weight.move.grad = torch.randn(weight.move.shape, generator=generator)
            weight.factor.grad = torch.randn(weight.factor.shape, generator=generator)
            learner.step()
        ways.append(torch.cat([weight.move.detach().flatten(), weight.factor.detach().flatten()]))
    assert torch.equal(*ways)


def test_scales_that_are_powers_of_two_stay() -> None:
    weight = moving(Spec(E2M1(), per_group(16), scale=Spec(PowerOfTwo())))
    before = weight.stored()
    learner = Learner({"w": weight}, Tuning(rate=1.0), steps=2)
    assert not weight.factor.requires_grad
    weight.draw().sum().backward()  # type: ignore[no-untyped-call]
    learner.step()
    assert weight.stored().params is not None and before.params is not None
    assert torch.equal(weight.stored().params.scale, before.params.scale)


def test_what_no_gradient_reached_stays() -> None:
    weight = moving(INTEGERS)
    Learner({"w": weight}, Tuning(), steps=1).step()
    assert not weight.move.any() and not weight.factor.any()


@pytest.mark.parametrize("spec", [INTEGERS, Spec(Int(2), per_group(16), scale=OWN.resolve(torch.float32))])
def test_where_a_weight_begins(spec: Spec) -> None:
    """As near the original as it may be on the line from its code, but a tenth, and on the same codes."""
    matrix = torch.randn(6, 32, generator=torch.Generator().manual_seed(3))
    near = quantize(matrix, spec, MinMax().fit(spec, matrix))
    other = quantize(
        matrix + 0.4 * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(4)), spec, near.params
    )
    begin = towards(RoundedWeight(matrix, other))
    assert torch.equal(quantize(begin, spec, other.params).codes, other.codes)
    middle = other.dequantize()
    share = (begin - middle) / (matrix - middle)
    assert float(share.min()) > 0 and float(share.max()) <= 0.9 + 1e-4
    inside = other.codes == near.codes
    assert 0.1 < float(inside.float().mean()) < 0.95
    assert torch.allclose(share[inside], torch.tensor(0.9), atol=1e-3)
    assert other.params is not None and spec.tile is not None
    steps = (begin - middle) / spec.tile.spread(other.params.scale, (6, 32))
    ends = (spec.format.low, spec.format.high)
    edge = steps[~inside & (other.codes != ends[0]) & (other.codes != ends[1])].abs()
    assert len(edge) and 0.4 < float(edge.min()) <= float(edge.max()) < 0.4501


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"rate": 0.0}, {"tokens": 0}])
def test_settings_that_mean_nothing(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1, and the rate is positive"):
        Tuning(**wrong)  # type: ignore[arg-type]


def test_rates_fall() -> None:
    weight = moving(INTEGERS)
    learner, places = Learner({"w": weight}, Tuning(), steps=10), [0.0]
    for _ in range(10):
        weight.move.grad = torch.ones_like(weight.move)
        learner.step()
        places.append(float(weight.move.detach()[0, 0]))
    ways = [before - after for before, after in pairwise(places)]
    assert all(one > other > 0 for one, other in pairwise(ways))
