"""The symmetric range of least squared error with a positive scale, as engines that multiply integers want it.

Few numbers in a tile are as large as the largest one, so a smaller range with some clipping often costs less. A
positive scale reaches as far down as up; the one code more below zero is used where it helps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.numerics.absmax import AbsMax
from bitwright.numerics.fitter import Fitter
from bitwright.numerics.qtensor import Params, store_params
from bitwright.numerics.spec import Spec


@final
@dataclass(frozen=True, slots=True)
class AbsMse(Fitter):
    """The best of `steps` shrink factors on AbsMax's scale, from 1 down to `lowest`; scales as they are stored.

    Source: the grid search of GPTQ (Frantar 2022, reference `quant.py`). Differs: squared error, positive scales.
    """

    steps: int = 40
    lowest: float = 0.3

    def __post_init__(self) -> None:
        if self.steps < 2 or not 0 < self.lowest < 1:
            raise ValueError(f"AbsMse wants at least 2 steps and lowest between 0 and 1; found {self}")

    def fit(
        self, spec: Spec, weight: Float[Tensor, "out in"], importance: Float[Tensor, "#out in"] | None = None
    ) -> Params:
        assert spec.tile is not None
        start = AbsMax().fit(spec, weight)
        tiles = spec.tile.split(weight)
        weights = None if importance is None else spec.tile.split(importance.expand_as(weight))
        first = _error(spec, tiles, weights, start)
        best, least = start, first
        for step in range(1, self.steps):
            factor = 1 + (self.lowest - 1) * step / (self.steps - 1)
            params = store_params(spec, Params(start.scale * factor, start.zero))
            error = _error(spec, tiles, weights, params)
            better = error < least
            best = Params(torch.where(better, params.scale, best.scale), best.zero)
            least = torch.where(better, error, least)
        if spec.scale is None or spec.scale.tile is None:
            return best
        together = store_params(spec, best)  # scales share a scale, which is another one with every tile's own choice
        return together if bool(_error(spec, tiles, weights, together).sum() < first.sum()) else start


def _error(spec: Spec, tiles: Tensor, weights: Tensor | None, params: Params) -> Float[Tensor, "down across"]:
    """Each tile's squared error in units of nothing."""
    scaled = tiles / params.scale[..., None]
    if params.zero is not None:
        scaled = scaled + params.zero[..., None]
    wrong = (spec.format.nearest(scaled) - scaled).square()
    return (wrong if weights is None else wrong * weights).sum(-1) * params.scale.square()
