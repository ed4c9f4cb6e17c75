"""Picks scale and zero of every tile. What may be stored is the spec's business; how good it gets is the fitter's."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.numerics.qtensor import Params, store_params
from bitwright.numerics.spec import Spec


class Fitter(ABC):
    """A rule for scales and zeros."""

    __slots__ = ()

    @abstractmethod
    def fit(
        self, spec: Spec, weight: Float[Tensor, "out in"], importance: Float[Tensor, "#out in"] | None = None
    ) -> Params:
        """Params as they will be stored: finite, scale nonzero. `importance` weighs each weight's squared error."""


def range_params(spec: Spec, low: Float[Tensor, "down across"], high: Float[Tensor, "down across"]) -> Params:
    """Stored params whose representable range covers [low, high] (asymmetric specs; the range includes zero).

    Source: Jacob 2018, eq. 1-3; the zero is re-derived from the scale as stored.
    """
    form = spec.format
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = (
        (high.double() - low.double()) / (form.high - form.low)
    ).float()  # high - low may exceed the largest float32
    scale = torch.where(step > 0, step, torch.ones_like(step))
    scale = store_params(spec, Params(scale, torch.zeros_like(scale))).scale
    return store_params(spec, Params(scale, form.low - low / scale))


def symmetric_params(spec: Spec, extreme: Float[Tensor, "down across"]) -> Params:
    """Stored params that put `extreme` (the element of largest magnitude, with its sign) on the far end of the format.

    Where the format reaches further down than up (two's complement), the scale takes the sign that puts the extreme
    there: the signed full range. Where scales are stored without a sign, the positive end is used. A zero extreme (an
    all-zero tile) gets scale 1.
    """
    form = spec.format
    assert spec.scale is not None
    if -form.low > form.high and spec.scale.format.low < 0:
        scale = extreme / form.low
    else:
        scale = extreme.abs() / form.high
    return store_params(spec, Params(torch.where(extreme != 0, scale, torch.ones_like(scale))))


def extremes(spec: Spec, weight: Float[Tensor, "out in"]) -> Float[Tensor, "down across"]:
    """The element of largest magnitude of every tile, with its sign."""
    assert spec.tile is not None
    tiles = spec.tile.split(weight)
    return tiles.gather(-1, tiles.abs().argmax(-1, keepdim=True)).squeeze(-1)
