"""Rounding that a gradient can pass: exact forwards, straight through backwards, also to the scale and the zero.

value = (q - zero) * scale with q the nearest number of the format to x / scale + zero. Backwards q counts as its
argument wherever that is in range, and as a constant where it is not. Hence d value / d x is 1 inside and 0 outside,
d value / d scale is q - zero - x / scale inside (the rounding error, in steps) and q - zero outside, and d value / d
zero is 0 inside and -scale outside.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bitwright.numerics import Format


def straight_through(
    values: Float[Tensor, "*shape"],
    scale: Float[Tensor, "*#shape"],
    zero: Float[Tensor, "*#shape"] | None,
    form: Format,
    left: Bool[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """The values on the grid of the format; differentiable in values, scale and zero. Those in `left` stay as they are.

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
            scaled = scaled + zero
        inside = (scaled >= form.low) & (scaled <= form.high)
        level = form.nearest(scaled)
        if zero is not None:
            level = level - zero
        found = level * scale
        if left is not None:  # backwards they are values inside whose rounding error is 0
            found, inside = torch.where(left, values, found), inside | left
        learned = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        ctx.save_for_backward(inside, *((values, scale, found) if learned else ()))
        ctx.zero_shape = None if zero is None else zero.shape
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        inside, *rest = ctx.saved_tensors
        through = gradient * inside
        to_scale = to_zero = None
        if rest:
            values, scale, found = rest
            if ctx.needs_input_grad[1]:
                to_scale = (gradient * found - through * values).div_(scale).sum_to_size(scale.shape)
            if ctx.needs_input_grad[2]:
                to_zero = ((through - gradient) * scale).sum_to_size(ctx.zero_shape)
        return through, to_scale, to_zero, None, None
