"""What codes cost the outputs, from weighted histograms and signed sums, against element by element."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitwright.calib import Effect, Histogram, LeastEffect, MeanSquaredError, activation_params
from bitwright.calib.density import Density
from bitwright.numerics import Params, Spec, quantize
from conformance.ranges import ACTIVATIONS

LOW, HIGH, BINS = -4.0, 6.0, 4000


def values() -> tuple[Tensor, Tensor]:
    """A value [samples, numbers] and gradients there; what is large pulls the outputs one way."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5000, generator=generator).clamp(LOW, HIGH).double()
    g = torch.randn(6, 5000, generator=generator).double() + (x > 1.5) * 0.7
    return x, g


def effect_of(x: Tensor, g: Tensor) -> Effect:
    """Counted number by number, not as the engine does."""
    edges = torch.linspace(LOW, HIGH, BINS + 1, dtype=torch.float64)
    place = torch.bucketize(x, edges[1:-1], right=True)
    mass = torch.zeros(BINS, dtype=torch.float64).index_add(0, place.flatten(), (g * g).flatten()) / len(x)
    below = [x < edge for edge in edges.tolist()[:-1]] + [torch.ones_like(x, dtype=torch.bool)]
    pulls = torch.stack([(g * held).sum(1) for held in below], 1)
    moments = torch.stack([(g * x * held).sum(1) for held in below], 1)
    return Effect(Density(edges, mass), edges, pulls, moments)


def reference(x: Tensor, g: Tensor, spec: Spec, params: Params) -> float:
    """Squares of rounding errors add up; errors of clipping are summed before they are squared."""
    scale, zero = float(params.scale), 0.0 if params.zero is None else float(params.zero)
    error = quantize(x.float().reshape(1, -1), spec, params).dequantize().double().reshape(x.shape) - x
    low, high = (spec.format.low - zero) * scale, (spec.format.high - zero) * scale
    clip = x.clamp(low, high) - x
    alone, together = (g * clip).square().sum(1).mean(), (g * clip).sum(1).square().mean()
    return float((g * error).square().sum(1).mean() + (together - alone).clamp(min=0))


@pytest.mark.parametrize("name", ["uint8", "int8", "uint4", "int8_zero"])
@pytest.mark.parametrize("ends", [(-4.0, 6.0), (-1.0, 2.0), (-0.3, 4.0)])
def test_the_noise_is_that_of_every_number(name: str, ends: tuple[float, float]) -> None:
    x, g = values()
    spec = ACTIVATIONS[name]
    params = activation_params(*ends, spec)
    found = float(effect_of(x, g).noise(spec, params))
    assert found == pytest.approx(reference(x, g, spec, params), rel=0.03)


def test_many_params_are_judged_as_one_by_one() -> None:
    spec, effect = ACTIVATIONS["uint8"], effect_of(*values())
    several = [activation_params(-low, 3.0, spec) for low in (0.5, 1.0, 4.0)]
    zeros = [one.zero for one in several if one.zero is not None]
    found = effect.noise(spec, Params(torch.cat([one.scale for one in several]), torch.cat(zeros)))
    assert found.tolist() == pytest.approx([float(effect.noise(spec, one)) for one in several])


def test_numbers_that_do_not_reach_the_outputs_get_no_steps() -> None:
    """Below zero nothing moves the outputs, so the range of least effect gives it up; least squared error does not."""
    x, g = values()
    spec, histogram = ACTIVATIONS["uint8"], Histogram()
    histogram.add(x.float(), 0)
    low, high = LeastEffect().measured([effect_of(x, g * (x > 0))], (LOW, HIGH), spec)
    assert low > -0.3 and high > 2
    assert LeastEffect().range(histogram, spec) == MeanSquaredError().range(histogram, spec)
    assert MeanSquaredError().range(histogram, spec)[0] < -2
