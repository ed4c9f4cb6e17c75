"""The rounding variable: every weight lies between two neighbouring numbers of its format and learns which to take.

A share h in [0, 1] says how far up it is: h = clamp(sigmoid(c a) * 1.2 - 0.1), which reaches both ends at a finite c a.
At the start the sharpness c is 1 and the share is where the original weight lies between its neighbours, so the soft
weight is the original. While c grows, shares move to the ends; a weight whose logit a is near 0 is decided last, and
until then it goes where the output wants it. Nothing here is about integers: neighbours are taken from the format's
own list of numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.numerics import Format, QTensor, assemble, to_scaled
from bitwright.solvers.reconstruction import RoundedWeight

_LOW, _HIGH = -0.1, 1.1  # how far the stretched sigmoid reaches beyond [0, 1]
_EDGE = 0.02  # shares start at least this far from 0 and 1, where the gradient would be too small to leave
_DECIDED = 10.0  # a logit whose share is at an end and feels no gradient


@final
@dataclass(frozen=True, slots=True)
class Neighbours:
    """The numbers of the format at or below and above each scaled weight; both the same where it is out of range."""

    below: Float[Tensor, "out in"]
    above: Float[Tensor, "out in"]


def neighbours(form: Format, scaled: Float[Tensor, "out in"], start: Float[Tensor, "out in"]) -> Neighbours:
    """The two numbers between which each weight is rounded: those around it that lie next to where it starts.

    A start from a method with error feedback may be further off; then it is one of the two, the other is the next one
    towards the weight.
    """
    values = form.values()
    last = len(values) - 1
    index = torch.searchsorted(values, scaled.contiguous(), right=True) - 1
    begun = torch.searchsorted(values, start.contiguous())
    below = torch.where(begun > index + 1, begun - 1, torch.where(begun < index, begun, index))
    return Neighbours(values[below.clamp(0, last)], values[(below + 1).clamp(0, last)])


@final
class Rounding:
    """The shares of one weight. `logits` is what is learned; weight = base + gap * share."""

    def __init__(self, weight: RoundedWeight) -> None:
        spec, params = weight.start.spec, weight.start.params
        self.weight, self.spec, self.params = weight, spec, params
        matrix = weight.matrix()
        scaled = matrix if params is None else to_scaled(matrix, spec, params)
        near = neighbours(spec.format, scaled, spec.format.decode(weight.start.codes))
        width = near.above - near.below
        self.near, self.free = near, width > 0
        self.base, gap = self._unscaled(near.below), self._unscaled(near.above)
        self.gap = gap - self.base
        share = (scaled - near.below) / torch.where(self.free, width, torch.ones(()))
        logits = -torch.log((_HIGH - _LOW) / (share.clamp(_EDGE, 1 - _EDGE) - _LOW) - 1)
        self.logits = torch.where(self.free, logits, -_DECIDED)
        self.logits.requires_grad_()

    def _unscaled(self, level: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        if self.params is None or self.spec.tile is None:
            return level
        shape = (level.shape[0], level.shape[1])
        if self.params.zero is not None:
            level = level - self.spec.tile.spread(self.params.zero, shape)
        return level * self.spec.tile.spread(self.params.scale, shape)

    def share(self, sharp: float = 1.0) -> Float[Tensor, "out in"]:
        """How far up every weight is, in [0, 1]."""
        return (torch.sigmoid(self.logits * sharp) * (_HIGH - _LOW) + _LOW).clamp(0, 1)

    def soft(self, share: Float[Tensor, "out in"]) -> Float[Tensor, "..."]:
        """The weight, in its own shape, at these shares."""
        return self.weight.shaped(torch.addcmul(self.base, self.gap, share))

    def hard(self) -> QTensor:
        """Every weight at the nearer of its two neighbours."""
        level = torch.where(self.logits.detach() >= 0, self.near.above, self.near.below)
        codes = self.spec.format.encode(level)
        return QTensor(codes, self.spec) if self.params is None else assemble(codes, self.spec, self.params)


def unsettled(share: Float[Tensor, "out in"]) -> int:
    """How many shares are neither at 0 nor at 1."""
    return int(((share > 0) & (share < 1)).sum())
