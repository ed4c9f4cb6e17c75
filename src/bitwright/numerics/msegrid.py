"""Searches the range of every tile for the least squared error.

Outliers make the full range a poor choice at few bits: clipping them costs less than coarse steps for all others. The
search shrinks the range of the tile in small steps (both ends alike, then each end alone), rounds with the scale and
zero as they would be stored, and keeps the best; where a format's steps are uneven it tries to stretch it, too. Errors
may be weighed element by element: with the diagonal of the Gram matrix, or with 1 / U_jj**2 of its factor, which is
what an error in that column costs a feedback solver.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.numerics.fitter import Fitter, extremes, range_params, symmetric_params
from bitwright.numerics.integer import Int
from bitwright.numerics.minmax import MinMax
from bitwright.numerics.qtensor import Params, store_params
from bitwright.numerics.spec import Spec
from bitwright.numerics.tile import Tile

_STRETCHES = (1.125, 1.25, 1.375, 1.5)  # 1.5 puts the largest weight on 4 instead of 6 in FP4
_CHUNK = 1 << 19  # elements searched at a time, so that a chunk and its errors stay in cache


@final
@dataclass(frozen=True, slots=True)
class MseGrid(Fitter):
    """Best of `steps` shrink factors from 1 down to `lowest`, then `fine` steps around the best, ends apart.

    Source: the grid search of GPTQ (Frantar 2022, reference `quant.py`). Differs: squared error instead of the power
    2.4, importance weights, params judged as stored, and a second pass that moves the ends of the range separately.
    """

    steps: int = 24
    lowest: float = 0.3
    fine: int = 2

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.lowest <= 1 or self.fine < 0:
            raise ValueError(f"MseGrid wants steps >= 1, 0 < lowest <= 1 and fine >= 0; found {self}")

    def fit(
        self, spec: Spec, weight: Float[Tensor, "out in"], importance: Float[Tensor, "#out in"] | None = None
    ) -> Params:
        assert spec.tile is not None
        if spec.scale is not None and spec.scale.tile is not None:
            best = self._fit_rows(spec, weight, importance)  # scales share a scale: the rows may not be cut apart
            return best.stored_together()
        height = spec.tile.size((weight.shape[0], weight.shape[1]))[0]
        rows = max(1, _CHUNK // (height * weight.shape[1])) * height
        parts = []
        for start in range(0, weight.shape[0], rows):
            part = importance if importance is None or importance.shape[0] == 1 else importance[start : start + rows]
            parts.append(self._fit_rows(spec, weight[start : start + rows], part).params)
        zeros = [part.zero for part in parts if part.zero is not None]
        return Params(torch.cat([part.scale for part in parts]), torch.cat(zeros) if zeros else None)

    def _fit_rows(
        self, spec: Spec, weight: Float[Tensor, "out in"], importance: Float[Tensor, "#out in"] | None
    ) -> _Best:
        assert spec.tile is not None
        tiles = spec.tile.split(weight)
        weights = None if importance is None else spec.tile.split(importance.expand_as(weight))
        low, high = tiles.amin(-1), tiles.amax(-1)
        if spec.zero is None:
            low = high = extremes(spec, weight)
        best = _Best(spec, tiles, weights, low, high, MinMax().fit(spec, weight))
        one = torch.ones_like(best.error)
        for shrink in self._factors(spec):
            best.offer(shrink * one, shrink * one)
        for step in self._fine_steps():
            down, up = best.down.clone(), best.up.clone()
            moves = [(step, step), (-step, -step)]
            if spec.zero is not None:
                moves += [(step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)]
            for a, b in moves:
                best.offer(down + a, up + b)
        return best

    def _factors(self, spec: Spec) -> Iterator[float]:
        for i in range(1, self.steps):
            yield 1.0 + (self.lowest - 1.0) * i / (self.steps - 1)
        if not isinstance(spec.format, Int):  # uneven steps: the largest weight may fall better on an inner value
            yield from _STRETCHES

    def _fine_steps(self) -> Iterator[float]:
        coarse = (1.0 - self.lowest) / max(1, self.steps - 1)
        for i in range(1, self.fine + 1):
            yield coarse / 2**i


class _Best:
    """The best params of every tile seen so far, and the shrink factors of the two ends that gave them."""

    def __init__(
        self, spec: Spec, tiles: Tensor, weights: Tensor | None, low: Tensor, high: Tensor, start: Params
    ) -> None:
        self.spec, self.tiles, self.weights, self.low, self.high = spec, tiles, weights, low, high
        self.params = self._start = start
        self.error = self._start_error = self._error(start)
        self.down, self.up = torch.ones_like(self.error), torch.ones_like(self.error)

    def offer(self, down: Tensor, up: Tensor) -> None:
        """Take the range [down * low, up * high] wherever it lowers the error."""
        params = self._range(down, up)
        error = self._error(params)
        better = error < self.error
        self.params = _choose(better, params, self.params)
        self.error = torch.where(better, error, self.error)
        self.down = torch.where(better, down, self.down)
        self.up = torch.where(better, up, self.up)

    def stored_together(self) -> Params:
        """The best params where scales share a scale; groups of tiles that these do not serve keep the full range.

        An offer is judged as if all tiles took it. With every tile's own choice their common scale is another one, so
        that all are stored anew and compared with where the search began, in groups that share nothing.
        """
        params = store_params(self.spec, self.params)
        change, shared = self._error(params) - self._start_error, self.spec.scale
        shapes: list[tuple[Tile, tuple[int, int]]] = []
        while shared is not None and shared.tile is not None:
            shapes.append((shared.tile, (change.shape[0], change.shape[1])))
            change, shared = shared.tile.split(change).sum(-1), shared.scale
        for tile, shape in reversed(shapes):
            change = tile.spread(change, shape)
        return _choose(change < 0, params, self._start)

    def _range(self, down: Tensor, up: Tensor) -> Params:
        if self.spec.zero is None:
            return symmetric_params(self.spec, down * self.low)
        return range_params(self.spec, down * self.low, up * self.high)

    def _error(self, params: Params) -> Tensor:
        scaled = self.tiles / params.scale[..., None]
        if params.zero is not None:
            scaled = scaled + params.zero[..., None]
        wrong = self.spec.format.nearest(scaled) - scaled
        squared = wrong.square_() if self.weights is None else wrong.square_().mul_(self.weights)
        return squared.sum(-1) * params.scale.square()


def _choose(condition: Tensor, yes: Params, no: Params) -> Params:
    zero = None
    if yes.zero is not None and no.zero is not None:
        zero = torch.where(condition, yes.zero, no.zero)
    return Params(torch.where(condition, yes.scale, no.scale), zero)
