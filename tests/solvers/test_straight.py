"""The straight-through quantizer: exact forwards, and the gradients of its definition backwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitwright.numerics import E2M1, NF4, Format, Int
from bitwright.solvers import straight_through
from conformance import references

FORMATS = [Int(4), Int(2, signed=False), Int(8, signed=False), NF4, E2M1()]


def example(form: Format, zero: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    """Values on both sides of the range, one scale, one zero."""
    torch.manual_seed(0)
    offset = torch.tensor(1.0) if zero else None
    scale = torch.tensor(0.37)
    reach = max(-form.low, form.high)
    return torch.linspace(-2.03 * reach, 1.97 * reach, 101) * scale, scale, offset


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_the_values_are_the_nearest_of_the_grid(form: Format, zero: bool) -> None:
    values, scale, offset = example(form, zero)
    shift = 0.0 if offset is None else float(offset)
    expected = (references.nearest(form.values(), values.double() / scale + shift) - shift) * scale
    assert torch.allclose(straight_through(values, scale, offset, form).double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_the_gradients_are_those_of_the_definition(form: Format) -> None:
    """Element by element in plain Python: inside q moves with x / s + z, outside it is a constant."""
    values, scale, offset = example(form)
    assert offset is not None
    pull = torch.randn(len(values))
    leaves = [values.clone().requires_grad_(), scale.clone().requires_grad_(), offset.clone().requires_grad_()]
    (straight_through(*leaves, form) * pull).sum().backward()  # type: ignore[arg-type]
    to_scale = to_zero = 0.0
    for i, x in enumerate(values.tolist()):
        scaled = x / float(scale) + float(offset)
        inside = form.low <= scaled <= form.high
        level = float(references.nearest(form.values(), torch.tensor([scaled], dtype=torch.float64)))
        assert leaves[0].grad is not None and float(leaves[0].grad[i]) == (float(pull[i]) if inside else 0.0)
        to_scale += float(pull[i]) * (level - float(offset) - (x / float(scale) if inside else 0.0))
        to_zero += 0.0 if inside else -float(pull[i]) * float(scale)
    assert leaves[1].grad is not None and float(leaves[1].grad) == pytest.approx(to_scale, rel=1e-4)
    assert leaves[2].grad is not None and float(leaves[2].grad) == pytest.approx(to_zero, rel=1e-4)


def test_what_is_left_out_passes_and_says_nothing_about_scale_and_zero() -> None:
    values, scale, zero = example(Int(4))
    assert zero is not None
    left = torch.rand(len(values)) < 0.5
    pull = torch.randn(len(values))
    leaves = [values.clone().requires_grad_(), scale.clone().requires_grad_(), zero.clone().requires_grad_()]
    found = straight_through(*leaves, Int(4), left.float())  # type: ignore[arg-type]
    assert torch.equal(found[left], values[left])
    assert torch.equal(found[~left], straight_through(values, scale, zero, Int(4))[~left])
    (found * pull).sum().backward()
    rest = [values.clone().requires_grad_(), scale.clone().requires_grad_(), zero.clone().requires_grad_()]
    (straight_through(*rest, Int(4)) * pull * ~left).sum().backward()  # type: ignore[arg-type]
    grads = [leaf.grad for leaf in (*leaves, *rest)]
    assert grads[0] is not None and torch.equal(grads[0][left], pull[left])
    for one, other in ((grads[1], grads[4]), (grads[2], grads[5])):
        assert one is not None and other is not None and torch.allclose(one, other, rtol=1e-4)


def test_a_scale_per_row_gets_its_own_gradient() -> None:
    torch.manual_seed(0)
    values, scale = torch.randn(3, 50), torch.tensor([[0.2], [0.1], [0.05]], requires_grad=True)
    straight_through(values, scale, None, Int(3)).square().sum().backward()
    assert scale.grad is not None
    for row in range(3):
        one = scale.detach()[row].clone().requires_grad_()
        straight_through(values[row], one, None, Int(3)).square().sum().backward()
        assert one.grad is not None and torch.allclose(one.grad, scale.grad[row], rtol=1e-5)


def test_following_the_scales_gradient_finds_a_better_step() -> None:
    """From a step four times too large, descent on the squared error comes close to the best of a fine search."""
    torch.manual_seed(0)
    values = torch.randn(4000)

    def error(scale: Tensor) -> Tensor:
        return (straight_through(values, scale, None, Int(4)) - values).square().mean()

    move = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([move], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        error(1.5 * move.exp()).backward()
        optimizer.step()
    best = min(float(error(torch.tensor(s))) for s in torch.linspace(0.1, 1.5, 200).tolist())
    assert float(error(1.5 * move.detach().exp())) <= 1.05 * best
