"""One operator against slow references: what its outputs are, on samples that made nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bitwright.engine.layer import halves, round_layer
from bitwright.graph.network import Node
from bitwright.numerics import PER_ROW, PER_TENSOR, AbsMax, AbsMse, Int, Spec
from bitwright.solvers import Feedback, Nearest

CONV = Node("conv", "Conv", ("x", "w", "b"), ("y",), {"group": 2, "pads": (1, 1, 1, 1), "strides": (2, 1)})
SHAPE = (6, 2, 3, 3)


def inputs(seed: int) -> list[Tensor]:
    """Correlated, with a mean that is not zero: two batches."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(11))
    return [torch.einsum("nchw,cd->ndhw", torch.randn(8, 4, 9, 9, generator=generator) + 0.5, mix) for _ in range(2)]


def weight() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))


def convolved(x: Tensor, matrix: Tensor, offset: Tensor | None = None) -> Tensor:
    kernel = matrix.reshape(SHAPE).double()
    return functional.conv2d(x.double(), kernel, offset, stride=(2, 1), padding=1, groups=2)


def error(x: Tensor, matrix: Tensor, offset: Tensor | None) -> float:
    """Noise over signal of the operator's outputs."""
    wanted = convolved(x, weight())
    return float((convolved(x, matrix, offset) - wanted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_its_error_is_that_of_the_outputs_of_the_judging_half(bits: int) -> None:
    made, judging = inputs(0), inputs(1)
    found = round_layer(CONV, weight(), Spec(Int(bits), PER_ROW), Feedback(fitter=AbsMse(), sweeps=2), (made, judging))
    offset = None if found.offset is None else found.offset.double()
    assert found.error == pytest.approx(error(torch.cat(judging), found.qtensor.dequantize(), offset), rel=1e-3)
    assert found.error <= found.nearest


def test_feedback_and_the_offset_are_better_than_nearest_at_few_bits() -> None:
    halves_ = (inputs(0), inputs(1))
    found = round_layer(CONV, weight(), Spec(Int(3), PER_ROW), Feedback(fitter=AbsMse(), sweeps=2), halves_)
    assert found.offset is not None and found.error < 0.8 * found.nearest
    x = torch.cat(halves_[1])
    assert error(x, found.qtensor.dequantize(), found.offset.double()) < error(x, found.qtensor.dequantize(), None)


def test_the_offset_takes_back_the_shift_of_the_mean() -> None:
    x = inputs(0)
    found = round_layer(CONV, weight(), Spec(Int(2), PER_ROW), Nearest(AbsMax()), (x, x))
    assert found.offset is not None
    shift = convolved(torch.cat(x), found.qtensor.dequantize()) - convolved(torch.cat(x), weight())
    torch.testing.assert_close(found.offset.double(), -shift.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)


def test_one_scale_for_all_groups_is_rounded_to_nearest() -> None:
    found = round_layer(CONV, weight(), Spec(Int(4), PER_TENSOR), Feedback(fitter=AbsMax()), (inputs(0), inputs(1)))
    assert found.qtensor.scale is not None and found.qtensor.scale.codes.shape == (1, 1)


def test_one_batch_is_cut_in_two() -> None:
    made, judging = halves([torch.arange(5.0)])
    assert torch.cat([*made, *judging]).tolist() == [0, 1, 2, 3, 4] and len(judging[0]) == 2
    alone = torch.zeros(1)
    assert halves([alone])[0] == halves([alone])[1] == [alone]
    three = [torch.zeros(2), torch.ones(2), torch.ones(2)]
    assert [len(half) for half in halves(three)] == [1, 2]
