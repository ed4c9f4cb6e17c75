"""The plainest rule: the largest magnitude of a tile meets the largest number of the format, the scale is positive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.numerics.fitter import Fitter, extremes, range_params
from bitwright.numerics.qtensor import Params, store_params
from bitwright.numerics.spec import Spec


@final
@dataclass(frozen=True, slots=True)
class AbsMax(Fitter):
    """scale = max|w| / (largest number); symmetric, one code of a two's complement format stays unused."""

    def fit(
        self, spec: Spec, weight: Float[Tensor, "out in"], importance: Float[Tensor, "#out in"] | None = None
    ) -> Params:
        largest = extremes(spec, weight).abs()
        if spec.zero is not None:
            return range_params(spec, -largest, largest)
        scale = largest / (spec.format.high or -spec.format.low)  # one signed bit is {-1, 0}
        return store_params(spec, Params(torch.where(largest > 0, scale, torch.ones_like(scale))))
