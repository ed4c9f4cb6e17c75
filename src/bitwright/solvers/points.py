"""The points of a piece while it is learned: fixed or learned steps, and elements that are left unquantized at random.

A step is learned as the logarithm of a factor on where it began, so that it stays positive and one learning rate fits
all. The zero stays: it is a whole code, and with it fixed the number 0 keeps its code at every step size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.numerics import Params, store_params
from bitwright.solvers.reconstruction import Activation, Quantize
from bitwright.solvers.straight import straight_through


@final
class Points:
    """All points of one piece. `rate`: learning rate of the logarithms of their steps; 0: they stay as they are."""

    def __init__(self, points: Mapping[str, Activation], rate: float) -> None:
        self.points, self.rate = points, rate
        self.moves = {name: torch.zeros((), requires_grad=True) for name in points} if rate > 0 else {}

    def learning(self, drop: float, generator: torch.Generator) -> Quantize:
        """Quantizes as the steps are now, differentiably; this share of the elements is left as it is."""

        def quantize(name: str, value: Tensor) -> Tensor:
            if name not in self.points:
                return value
            left = None if drop == 0 else coins(value.shape, drop, generator)
            zero = self.points[name].params.zero
            zero = None if zero is None else zero.reshape(())
            return straight_through(value, self._scale(name).reshape(()), zero, self.points[name].spec.format, left)

        return quantize

    def _scale(self, name: str) -> Tensor:
        scale = self.points[name].params.scale
        return scale * self.moves[name].exp() if name in self.moves else scale

    def stored(self) -> dict[str, Activation]:
        """The points with their steps as a reader will see them."""
        return {name: self._stored(name, point) for name, point in self.points.items()}

    def _stored(self, name: str, point: Activation) -> Activation:
        if name not in self.moves:
            return point
        params = Params(self._scale(name).detach(), point.params.zero)
        return Activation(point.spec, store_params(point.spec, params))


def coins(shape: torch.Size, share: float, generator: torch.Generator) -> Float[Tensor, "..."]:
    """1.0 for this share of the elements (to within 1/512), at random, and 0.0 for the others.

    One random byte per element, eight from each 64-bit draw: several times faster than drawing element by element.
    """
    count, below = shape.numel(), round(share * 256)
    words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return words.view(torch.uint8)[:count].float().neg_().add_(below).clamp_(0, 1).reshape(shape)
