"""The error of a quantizer on a histogram: against many points in each bin, and against the values themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bitwright.calib import MinMaxRange, activation_params, clipped_energy, distortion, outside, sqnr
from bitwright.calib.density import Density, density, fold, magnitudes, squared_errors
from bitwright.numerics import PER_TENSOR, Grid, Params, Spec, quantize
from conformance.ranges import ACTIVATIONS, FLOATS, VALUES, seen, values_of

SPECS = ACTIVATIONS | FLOATS | {"grid": Spec(Grid((-1.5, -0.4, 0.0, 0.1, 0.75, 2.0)), PER_TENSOR)}


def quantized(values: torch.Tensor, spec: Spec, params: Params) -> torch.Tensor:
    return quantize(values.reshape(1, -1).float(), spec, params).dequantize().reshape(values.shape).double()


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("kind", ["normal", "rectified", "swish", "clipped", "outlier", "shifted", "pixels"])
@pytest.mark.parametrize("shrink", [1.0, 0.4])
def test_distortion_equals_the_error_of_the_values_themselves(kind: str, name: str, shrink: float) -> None:
    values, spec = values_of(kind, 16, 20_000), SPECS[name]
    low, high = MinMaxRange().range(seen(values), spec)
    params = activation_params(low * shrink, high * shrink, spec)
    true = float((quantized(values, spec, params) - values).square().mean())
    # bins are at most a 2048th of the range, so only values on a grid of their own (pixels) are moved visibly
    step = float(params.scale) * (1 if kind == "pixels" else 0.02)
    assert distortion(seen(values), spec, params) == pytest.approx(true, rel=0.02, abs=step**2 / 12)


@pytest.mark.parametrize("name", SPECS)
def test_distortion_equals_an_average_over_many_points_of_each_bin(name: str) -> None:
    spec = SPECS[name]
    generator = torch.Generator().manual_seed(0)
    edges = torch.cat([torch.rand(40, generator=generator, dtype=torch.float64) * 8 - 3, torch.zeros(2)]).sort().values
    held = Density(edges, torch.randint(0, 9, (41,), generator=generator).double())
    params = activation_params(-1.5, 2.5, spec)
    inner = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    points = edges[:-1, None] + edges.diff()[:, None] * inner
    errors = (quantized(points, spec, params) - points).square().mean(1)
    assert float(squared_errors(held, spec, params)) == pytest.approx(float(errors @ held.mass), rel=2e-4)


def test_many_params_are_judged_as_each_alone() -> None:
    held, spec = density(seen(values_of("swish"))), ACTIVATIONS["uint8"]
    scales = torch.rand(40, 1) * 0.1 + 0.01
    zeros = torch.randint(0, 200, (40, 1)).float()
    together = squared_errors(held, spec, Params(scales, zeros))
    alone = [float(squared_errors(held, spec, Params(scales[i : i + 1], zeros[i : i + 1]))) for i in range(40)]
    assert torch.allclose(together, torch.tensor(alone, dtype=torch.float64), rtol=1e-12)


@pytest.mark.parametrize("kind", VALUES)
def test_quantiles_equal_order_statistics_to_a_bin(kind: str) -> None:
    values = values_of(kind)
    histogram = seen(values)
    for held, exact in ((density(histogram), values), (magnitudes(histogram), values.abs())):
        assert held.total == values.numel()
        for part in (0.0, 0.001, 0.25, 0.5, 0.9, 0.9999, 1.0):
            expected = np.quantile(exact.double().numpy(), part, method="inverted_cdf")
            assert abs(held.quantile(part) - expected) <= histogram.width, part


def test_zeros_are_a_point_of_the_density() -> None:
    held = density(seen(torch.tensor([[0.0, 0.0, 0.0, 1.0, 2.0, -1.0]])))
    at = [j for j, (a, b) in enumerate(zip(held.edges[:-1], held.edges[1:], strict=True)) if a == b == 0]
    assert float(held.mass[at].sum()) == 3
    assert held.quantile(0.3) == held.quantile(0.6) == 0.0


def test_what_lies_beyond_a_bound_equals_sums_over_values() -> None:
    values = values_of("swish", 16, 20_000).double()
    held = density(seen(values))
    for bound in (-0.2, 0.0, 0.7, 3.3):
        over, under = (values - bound).clamp(min=0), (bound - values).clamp(min=0)
        for found, exact in ((held.above(bound), over), (held.below(bound), under)):
            expected = [float((exact > 0).sum()), float(exact.sum()), float(exact.square().sum())]
            assert found == pytest.approx(expected, rel=1e-2)  # bins at the pole of its density are uneven


def test_clipped_energy_and_outside_are_zero_at_the_extremes_and_equal_the_values_inside() -> None:
    values = values_of("normal", 16, 20_000)
    histogram = seen(values)
    assert clipped_energy(histogram, histogram.low, histogram.high) == 0.0
    assert outside(histogram, histogram.low, histogram.high) == 0.0
    beyond = values.double() - values.double().clamp(-1.0, 2.0)
    assert clipped_energy(histogram, -1.0, 2.0) == pytest.approx(float(beyond.square().mean()), rel=1e-3)
    assert outside(histogram, -1.0, 2.0) == pytest.approx(float((beyond != 0).double().mean()), rel=1e-3)


@pytest.mark.parametrize("kind", ["normal", "rectified", "negative", "swish", "outlier"])
def test_folding_counts_magnitudes(kind: str) -> None:
    values = values_of(kind)
    histogram = seen(values)
    expected = torch.bincount((values.double().abs() / histogram.width).long().flatten())
    assert torch.equal(fold(histogram)[: len(expected)], expected) and int(fold(histogram).sum()) == values.numel()


def test_values_without_error_have_an_infinite_sqnr() -> None:
    spec = ACTIVATIONS["uint8"]
    assert sqnr(seen(values_of("zeros")), spec, activation_params(0.0, 0.0, spec)) == math.inf
    assert sqnr(seen(torch.ones(2, 9)), spec, activation_params(0.0, 255.0, spec)) == math.inf


def test_scaling_by_a_power_of_two_scales_the_error_exactly() -> None:
    values, spec = values_of("normal"), ACTIVATIONS["int8"]
    one = distortion(seen(values), spec, Params(torch.tensor([[0.03]])))
    assert distortion(seen(values * 1024), spec, Params(torch.tensor([[0.03 * 1024]]))) == one * 1024**2


def test_a_scale_far_above_the_values_gives_their_energy_and_no_nan() -> None:
    values, spec = values_of("normal"), ACTIVATIONS["uint8"]
    histogram = seen(values)
    params = Params(torch.tensor([[1e20]]), torch.tensor([[128.0]]))
    assert distortion(histogram, spec, params) == pytest.approx(histogram.mean_square, rel=1e-3)
