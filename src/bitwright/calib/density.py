"""A histogram read as a density: its values spread evenly over each bin, and exact zeros (and ceilings) as points.

Under that reading the squared error of a quantizer, clipping included, is an integral in closed form: over [a, b] the
error x - Q(x) is a sawtooth, whose square has the primitive `place / 12 + (x - Q(x))**3 / 3` in units of the step. So
a range is judged by the error it makes, in some 30 microseconds, and nothing has to be kept of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from bitwright.calib.histogram import Histogram
from bitwright.numerics import Format, Int, Params, Spec

_SLIVER = 2.0**-10  # an end bin narrower than this part of the width is a point: its primitive would cancel
_POINT = 2.0**-20  # bins narrower than this, in steps of the quantizer, are judged as points, for the same reason
_AT_ONCE = 7  # params judged together: their tables of bins stay in cache and are not shared out among threads


@final
@dataclass(frozen=True, slots=True)
class Density:
    """How many values lie between neighbouring edges, evenly spread; between equal edges: exactly there."""

    edges: Float64[Tensor, "edges"]
    mass: Float64[Tensor, "bins"]

    def quantile(self, part: float) -> float:
        """The value that this part (0 to 1) of all values is at most, interpolated inside its bin."""
        below = torch.cat([torch.zeros(1, dtype=torch.float64), self.mass.cumsum(0)])
        wanted = part * float(below[-1])
        j = min(int(torch.searchsorted(below, wanted)), len(self.mass))  # below[j - 1] < wanted <= below[j]
        if j == 0:
            return float(self.edges[0])
        left, right = float(self.edges[j - 1]), float(self.edges[j])
        return left + (right - left) * min(1.0, (wanted - float(below[j - 1])) / float(self.mass[j - 1]))

    def above(self, bound: float) -> tuple[float, float, float]:
        """Of the values above `bound`: how many, the sum of their distances to it, and of the squared distances."""
        count, sums, squares = _above(self, torch.tensor([bound], dtype=torch.float64))
        return float(count), float(sums), float(squares)

    def below(self, bound: float) -> tuple[float, float, float]:
        """The same of the values below `bound`; distances are positive."""
        return Density(-self.edges.flip(0), self.mass.flip(0)).above(-bound)

    @property
    def total(self) -> float:
        """How many values there are."""
        return float(self.mass.sum())


def _above(
    held: Density, bounds: Float64[Tensor, "bounds"]
) -> tuple[Float64[Tensor, "bounds"], Float64[Tensor, "bounds"], Float64[Tensor, "bounds"]]:
    """Of the values above each bound: how many, and the sums of their distances to it and of the squared distances."""
    beyond = held.edges - bounds[:, None]
    left, right = beyond[:, :-1], beyond[:, 1:]
    a, b = left.clamp(min=0), right.clamp(min=0)
    part = torch.where(right > left, b / (right - left), 1.0).clamp(max=1) * (right > 0)
    mass = held.mass * part
    return mass.sum(1), (mass * (a + b)).sum(1) / 2, (mass * (a * a + a * b + b * b)).sum(1) / 3


def density(histogram: Histogram) -> Density:
    """The histogram as a density."""
    edges, mass = histogram.edges(), histogram.counts.double()
    return _made(edges, mass, histogram.zeros, -histogram.first)


def magnitudes(histogram: Histogram) -> Density:
    """The density of |x|. A point at an end that other values reach across is spread over its bin."""
    counts = fold(histogram).double()
    edges = torch.arange(len(counts) + 1, dtype=torch.float64) * histogram.width
    low, high = histogram.low, histogram.high
    edges = edges.clamp(max(low, -high, 0.0), max(-low, high))
    return _made(edges, counts, histogram.zeros, 0)


def fold(histogram: Histogram) -> Int64[Tensor, "bins"]:
    """Counts of |x| by bin: bin -1 - j is the mirror image of bin j."""
    negative = histogram.counts[: -histogram.first].flip(0)
    positive = histogram.counts[-histogram.first :]
    counts = torch.zeros(max(len(negative), len(positive)), dtype=torch.int64)
    counts[: len(negative)] += negative
    counts[: len(positive)] += positive
    return counts


def _made(edges: Float64[Tensor, "edges"], mass: Float64[Tensor, "bins"], zeros: int, at: int) -> Density:
    """Zeros taken out of bin `at` as a point, slivers at the ends made points, empty stretches made one bin."""
    if zeros:
        mass = torch.cat([mass[:at], mass.new_tensor([zeros]), mass[at:]])
        mass[at + 1] -= zeros
        edges = torch.cat([edges[: at + 1], edges[at:]])
    edges = edges.clone()
    widths = edges.diff()
    for end, inner in ((0, 1), (-1, -2)):
        if float(widths[end]) < _SLIVER * float(widths.max()):
            edges[end] = edges[inner]
    used = torch.zeros(len(edges), dtype=torch.bool)
    used[:-1] |= mass > 0
    used[1:] |= mass > 0
    kept = used.nonzero().squeeze(1)
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), mass.cumsum(0)])
    return Density(edges[kept], sums[kept].diff())


def squared_errors(held: Density, spec: Spec, params: Params) -> Float64[Tensor, "candidates"]:
    """The summed squared error of all values under each of these scales (and zeros), which are [candidates, 1]."""
    scales = params.scale.double()
    zeros = torch.zeros_like(scales) if params.zero is None else params.zero.double()
    parts = zip(scales.split(_AT_ONCE), zeros.split(_AT_ONCE), strict=True)
    return torch.cat([_squared_errors(held, spec.format, scale, zero) for scale, zero in parts])


def _squared_errors(
    held: Density, form: Format, scale: Float64[Tensor, "candidates 1"], zero: Float64[Tensor, "candidates 1"]
) -> Float64[Tensor, "candidates"]:
    values = held.edges / scale  # in units of the step; zero is added for rounding alone, it would swallow small ones
    nearest, base = _nearest(form, values + zero)
    error = values - (nearest - zero)
    primitive = base + error**3 / 3
    width = values.diff()
    mean = torch.where(width > _POINT, primitive.diff() / width, error[:, :-1] ** 2)
    return (mean @ held.mass) * scale.squeeze(1) ** 2


def _nearest(
    form: Format, values: Float64[Tensor, "candidates edges"]
) -> tuple[Float64[Tensor, "candidates edges"], Float64[Tensor, "candidates edges"]]:
    """The number of the format nearest to each value, and the constant that makes the primitive continuous there."""
    if isinstance(form, Int):
        nearest = values.round().clamp_(form.low, form.high)
        return nearest, nearest / 12  # a whole step adds the integral of u**2 over [-1/2, 1/2]
    points = form.values().double()
    half = points.diff() / 2
    constants = torch.cat([torch.zeros(1, dtype=torch.float64), (2 * half**3 / 3).cumsum(0)])
    place = torch.bucketize(values, points[:-1] + half)
    return points[place], constants[place]


def distortion(histogram: Histogram, spec: Spec, params: Params) -> float:
    """The mean squared error of quantizing what the histogram has seen with these params, clipping included."""
    return float(squared_errors(density(histogram), spec, params)[0]) / histogram.count


def sqnr(histogram: Histogram, spec: Spec, params: Params) -> float:
    """Mean square of the values over `distortion`, in dB; infinite where there is no error."""
    noise = distortion(histogram, spec, params)
    if noise <= 0:
        return math.inf
    return 10 * math.log10(max(histogram.mean_square, 1e-300) / noise)


def clipped_energies(
    held: Density, low: Float64[Tensor, "ranges"], high: Float64[Tensor, "ranges"]
) -> Float64[Tensor, "ranges"]:
    """The summed squared distance of the values to each of these ranges."""
    mirrored = Density(-held.edges.flip(0), held.mass.flip(0))
    return _above(held, high)[2] + _above(mirrored, -low)[2]


def clipped_energy(histogram: Histogram, low: float, high: float) -> float:
    """The mean squared distance of the values to [low, high]: what clipping alone costs."""
    bounds = torch.tensor([[low], [high]], dtype=torch.float64)
    return float(clipped_energies(density(histogram), *bounds)) / histogram.count


def outside(histogram: Histogram, low: float, high: float) -> float:
    """The part (0 to 1) of the values that lies outside [low, high]; interpolated inside a bin, exact at its edges."""
    held = density(histogram)
    return (held.above(high)[0] + held.below(low)[0]) / histogram.count
