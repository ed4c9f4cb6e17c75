"""A weight that moves: codes and scales learned together, straight through the rounding.

Codes change where the number behind them passes the edge of its cell. So it matters where in the cell it begins: in the
middle it has half a step to go, whatever the original number was; at the original number, less where that is near an
edge. Numbers that the solver has moved out of their cell have no place in it of their own; they begin at that edge.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.numerics import Params, QTensor, quantize
from bitwright.solvers.reconstruction import RoundedWeight
from bitwright.solvers.straight import straight_through

_HALVINGS = 6  # of the line from the code to the original number
_INSIDE = 0.9  # of the way to the edge of the cell at most


@final
class Moving:
    """One weight: where it moves to, in steps, and the factors on its scales.

    `matrix`: where it begins, numbers whose nearest codes are those that it starts with.
    """

    def __init__(self, weight: RoundedWeight, matrix: Float[Tensor, "out in"]) -> None:
        self.weight, self.spec, self.params = weight, weight.start.spec, weight.start.params
        self.matrix = matrix
        self.move = torch.zeros_like(self.matrix, requires_grad=True)
        tiles = () if self.params is None else self.params.scale.shape
        self.factor = torch.zeros(tiles, requires_grad=True)

    def draw(self) -> Tensor:
        """The quantized weight as it is now, differentiable in the move and in the factors."""
        shape = (self.matrix.shape[0], self.matrix.shape[1])
        if self.params is None or self.spec.tile is None:
            return self.weight.shaped(straight_through(self.moved(), torch.ones(()), None, self.spec.format))
        scale = self.spec.tile.spread(self.params.scale * self.factor.exp(), shape)
        zero = None if self.params.zero is None else self.spec.tile.spread(self.params.zero, shape)
        return self.weight.shaped(straight_through(self.moved(), scale, zero, self.spec.format))

    def moved(self) -> Tensor:
        """The weight before rounding."""
        if self.params is None or self.spec.tile is None:
            return self.matrix + self.move
        unit = self.spec.tile.spread(self.params.scale, (self.matrix.shape[0], self.matrix.shape[1]))
        return self.matrix + self.move * unit

    def stored(self) -> QTensor:
        """The nearest codes under the scales as they are stored."""
        params = self.params
        if params is not None:
            params = Params(params.scale * self.factor.detach().exp(), params.zero)
        return quantize(self.moved().detach(), self.spec, params)


def as_it_was(weight: RoundedWeight) -> Float[Tensor, "out in"]:
    """The original numbers, where they round to the starting codes; else the number that the code stands for."""
    matrix, start = weight.matrix(), weight.start.dequantize()
    return torch.where(quantize(matrix, weight.start.spec, weight.start.params).dequantize() == start, matrix, start)


def towards(weight: RoundedWeight) -> Float[Tensor, "out in"]:
    """From the starting codes' numbers towards the original ones: nine tenths of the way, or of that to the edge."""
    matrix, start = weight.matrix(), weight.start
    middle = start.dequantize()
    away = matrix - middle

    def stays(share: Tensor | float) -> Tensor:
        found: Tensor = quantize(middle + away * share, start.spec, start.params).codes == start.codes
        return found

    whole = stays(1.0)
    low, high = torch.zeros_like(middle), torch.ones_like(middle)
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        inside = stays(share)
        low, high = torch.where(inside, share, low), torch.where(inside, high, share)
    return middle + away * torch.where(whole, 1.0, low) * _INSIDE
