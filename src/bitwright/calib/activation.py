"""From a range of values to the scale and zero of an activation.

An activation has one scale and, in asymmetric specs, one integer zero, so that 0.0 (padding, the floor of a ReLU) is
represented exactly. Symmetric scales are positive, as every engine expects; unlike weights', they never change sign.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.calib.extremes import Seen
from bitwright.numerics import PER_TENSOR, Int, Params, Spec, store_params
from bitwright.numerics.fitter import range_params


def activation_params(low: float, high: float, spec: Spec) -> Params:
    """Scale and zero [1, 1], as they will be stored, whose codes cover [low, high] and zero; the scale is above zero.

    Covered up to the rounding of the zero: half a step at one end. Raises ValueError for specs that no activation has.
    """
    _check(spec)
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise ValueError(f"a range goes from a finite number to one not below it; found [{low}, {high}]")
    return params_between(spec, torch.tensor([[low]]), torch.tensor([[high]]))


def params_between(spec: Spec, low: Float[Tensor, "candidates 1"], high: Float[Tensor, "candidates 1"]) -> Params:
    """The same for many ranges at once.

    A symmetric scale is the smallest that reaches both ends: low may use the one code more that negative numbers have
    in two's complement. Unsigned symmetric specs cannot reach below zero, whatever `low` is.
    """
    if spec.zero is not None:
        return range_params(spec, low, high)
    form = spec.format
    scale = high.clamp(min=0) / form.high
    if form.low < 0:
        scale = torch.maximum(scale, low.clamp(max=0) / form.low)
    return store_params(spec, Params(torch.where(scale > 0, scale, torch.ones_like(scale))))


def span(histogram: Seen, spec: Spec) -> tuple[float, float]:
    """How far the codes of this spec should reach: the extremes and zero; not below zero if they cannot."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    return (0.0 if spec.zero is None and spec.format.low >= 0 else low), high


def _check(spec: Spec) -> None:
    if spec.tile != PER_TENSOR:
        raise ValueError(f"a static activation has one scale per tensor; found {spec}; use Spec(format, PER_TENSOR)")
    if spec.zero is not None and not (isinstance(spec.zero.format, Int) and spec.zero.tile is None):
        raise ValueError(f"the zero of an activation is an integer, so that 0.0 is exact; found zero {spec.zero}")
