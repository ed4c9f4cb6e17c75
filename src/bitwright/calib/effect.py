"""How far a value's codes will move the outputs of a network, told from one pass of gradients.

For a vector v of random signs, one per output number, the gradient of v . outputs at a value has one number g for each
of its elements, and the mean of (sum of g * error)**2 over v is the energy of what that error does to the outputs, as
far as they follow it in a straight line. Errors of rounding have no common sign, so theirs add up as g**2 * error**2:
a histogram of the value in which every element weighs g**2 gives that for any range (`density.py`). Errors of clipping
do have one, so for each sample the sums of g and of g * x are kept bin by bin, and give the whole sum for any bound.

Source: Fisher-weighted errors as in BRECQ (Li 2021), equation 10, with random signs in the place of labels (Hutchinson
1990). Differs: for ranges of activations; clipping is summed with its signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from bitwright.calib.density import Density, clipped_energies, squared_errors
from bitwright.calib.histogram import Histogram
from bitwright.calib.ranges import RangeRule
from bitwright.calib.square_error import MeanSquaredError
from bitwright.numerics import Params, Spec

_SEARCH = MeanSquaredError()


@final
@dataclass(frozen=True, slots=True, eq=False)
class Effect:
    """The outputs' noise over signal that errors of one value make, mean over samples.

    `weights`: the value as a density in which an element weighs its squared gradient; exact zeros weigh nothing, they
    have a code. `edges`: evenly spaced; `pulls`, `moments`: sums of g and of g * x below each edge, sample by sample.
    """

    weights: Density
    edges: Float64[Tensor, "edges"]
    pulls: Float[Tensor, "samples edges"]
    moments: Float[Tensor, "samples edges"]

    def noise(self, spec: Spec, params: Params) -> Float64[Tensor, "candidates"]:
        """What codes with each of these params [candidates, 1] cost."""
        scale = params.scale.double().squeeze(1)
        zero = torch.zeros_like(scale) if params.zero is None else params.zero.double().squeeze(1)
        low, high = (spec.format.low - zero) * scale, (spec.format.high - zero) * scale
        alone = clipped_energies(self.weights, low, high)
        together = (self._below(low) + self._above(high)).square().mean(0)
        return squared_errors(self.weights, spec, params) + (together - alone).clamp(min=0)

    def _below(self, bounds: Float64[Tensor, "bounds"]) -> Float64[Tensor, "samples bounds"]:
        """The sum of g * (x - bound) over what lies below."""
        pull, moment = self._at(bounds)
        return moment - pull * bounds

    def _above(self, bounds: Float64[Tensor, "bounds"]) -> Float64[Tensor, "samples bounds"]:
        pull, moment = self._at(bounds)
        return self.moments[:, -1:] - moment - (self.pulls[:, -1:] - pull) * bounds

    def _at(self, bounds: Tensor) -> tuple[Float64[Tensor, "samples bounds"], Float64[Tensor, "samples bounds"]]:
        """Both sums below any bound, interpolated between edges."""
        count = len(self.edges) - 1
        place = ((bounds - self.edges[0]) / (self.edges[-1] - self.edges[0]) * count).clamp(0, count)
        bin_ = place.long().clamp(max=count - 1)
        part = place - bin_
        pulls, moments = self.pulls.double(), self.moments.double()
        return tuple(held[:, bin_] * (1 - part) + held[:, bin_ + 1] * part for held in (pulls, moments))  # type: ignore[return-value]


@final
@dataclass(frozen=True, slots=True)
class LeastEffect(RangeRule):
    """The range whose codes move the outputs least; without gradients that of least squared error.

    It needs `Effect`s, which `measured` takes: those of all values that share the range.
    """

    def range(self, histogram: Histogram, spec: Spec) -> tuple[float, float]:
        return _SEARCH.range(histogram, spec)

    def measured(self, effects: Sequence[Effect], ends: tuple[float, float], spec: Spec) -> tuple[float, float]:
        """The range inside these ends (which have zero) of least effect."""
        return _SEARCH.search(spec, ends, lambda params: total_noise(effects, spec, params))


@final
@dataclass(frozen=True, slots=True)
class Given(RangeRule):
    """A range that was found in another way than from a histogram."""

    low: float
    high: float

    def range(self, histogram: Histogram, spec: Spec) -> tuple[float, float]:
        return self.low, self.high


def total_noise(effects: Sequence[Effect], spec: Spec, params: Params) -> Float64[Tensor, "candidates"]:
    """What codes of several values cost together; their errors have nothing in common."""
    assert effects
    return torch.stack([effect.noise(spec, params) for effect in effects]).sum(0)
