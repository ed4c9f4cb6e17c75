"""The range of a tile is what it holds: from its smallest to its largest element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from bitwright.numerics.fitter import Fitter, extremes, range_params, symmetric_params
from bitwright.numerics.qtensor import Params
from bitwright.numerics.spec import Spec


@final
@dataclass(frozen=True, slots=True)
class MinMax(Fitter):
    """Asymmetric specs: [min, max] with zero inside. Symmetric ones: the signed full range (scales may be negative)."""

    def fit(
        self, spec: Spec, weight: Float[Tensor, "out in"], importance: Float[Tensor, "#out in"] | None = None
    ) -> Params:
        if spec.zero is None:
            return symmetric_params(spec, extremes(spec, weight))
        assert spec.tile is not None
        tiles = spec.tile.split(weight)
        return range_params(spec, tiles.amin(-1), tiles.amax(-1))
