"""Rounding that a gradient can pass: exact forwards, straight through backwards, also to the scale and the zero.

value = (q - zero) * scale with q the nearest number of the format to x / scale + zero. Backwards q counts as its
argument wherever that is in range, and as a constant where it is not. Hence d value / d x is 1 inside and 0 outside,
d value / d scale is q - zero - x / scale inside (the rounding error, in steps) and q - zero outside, and d value / d
zero is 0 inside and -scale outside.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.numerics import Format


def straight_through(
    values: Float[Tensor, "*shape"],
    scale: Float[Tensor, "*#shape"],
    zero: Float[Tensor, "*#shape"] | None,
    form: Format,
    left: Float[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """The values on the grid of the format; differentiable in values, scale and zero.

    `left`: 1.0 for values that stay as they are, 0.0 for the others. Masks are numbers throughout: on processors a
    product with one takes a tenth of the time of a choice by truth values.

    Source: learned step size (Esser 2020), eq. 1-3, with the offset of LSQ+ (Bhalgat 2020). Differs: any scalar format,
    and no factor on the scale's gradient, because the optimizers here do not look at its size.
    """
    found: Tensor = _StraightThrough.apply(values, scale, zero, form, left)  # type: ignore[no-untyped-call]
    return found


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, scale: Tensor, zero: Tensor | None, form: Format, left: Tensor | None
    ) -> Tensor:
        scaled = values / scale
        if zero is not None:
            scaled = scaled.add_(zero)
        level = form.nearest(scaled)
        outside = scaled.clamp(form.low, form.high).sub_(scaled).sign_().abs_() if any(ctx.needs_input_grad) else None
        if zero is not None:
            level = level.sub_(zero)
        found = level.mul_(scale)
        if left is not None:  # backwards they are values inside whose rounding error is 0
            found = torch.lerp(found, values, left)
            outside = None if outside is None else torch.addcmul(outside, outside, left, value=-1)
        learned = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        ctx.save_for_backward(outside, *((values, scale, found) if learned else ()))
        ctx.zero_shape = None if zero is None else zero.shape
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        outside, *rest = ctx.saved_tensors
        through = torch.addcmul(gradient, gradient, outside, value=-1)
        to_scale = to_zero = None
        if rest:
            values, scale, found = rest
            if ctx.needs_input_grad[1]:
                to_scale = (gradient * found).sub_(through * values).sum_to_size(scale.shape) / scale
            if ctx.needs_input_grad[2]:
                to_zero = ((through - gradient) * scale).sum_to_size(ctx.zero_shape)
        return through, to_scale, to_zero, None, None
