"""Closed-form means of clipped Gaussians, held against sampling and against numerical integration."""

from __future__ import annotations

import math

import pytest
import torch

from bitwright.graph.channels import find_sites
from bitwright.transforms import Moments, expected_means, fold_norms, open_clips, scaled_by_site
from conformance.networks import Sketch, depthwise, evaluate, normalized

MEAN = torch.tensor([-3.0, -0.5, 0.0, 0.7, 2.0, 5.9, 9.0], dtype=torch.float64)
DEVIATION = torch.tensor([1.0, 0.3, 1.0, 2.0, 0.5, 1.0, 4.0], dtype=torch.float64)
BOUNDS = [(0.0, math.inf), (0.0, 6.0), (-1.0, 1.0), (-math.inf, 2.0), (-math.inf, math.inf)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_the_mean_behind_a_clip_agrees_with_sampling(low: float, high: float) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400_000, 1, generator=generator, dtype=torch.float64)
    noise = torch.cat([noise, -noise])  # antithetic
    sampled = (MEAN + DEVIATION * noise).clamp(low, high)
    error = 4 * sampled.std(0) / math.sqrt(len(sampled)) + 1e-4
    assert bool(((Moments(MEAN, DEVIATION).clipped_mean(low, high) - sampled.mean(0)).abs() < error).all())


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_the_mean_behind_a_clip_agrees_with_integration(low: float, high: float) -> None:
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)[:, None]
    density = torch.exp(-grid * grid / 2) / math.sqrt(2 * math.pi)
    integrand = (MEAN + DEVIATION * grid).clamp(low, high) * density
    torch.testing.assert_close(
        Moments(MEAN, DEVIATION).clipped_mean(low, high),
        torch.trapezoid(integrand, grid[:, 0], dim=0),
        atol=1e-7,
        rtol=0,
    )


def test_a_channel_that_does_not_vary_is_clipped_like_a_number() -> None:
    found = Moments(torch.tensor([-1.0, 3.0, 8.0]).double(), torch.zeros(3).double()).clipped_mean(0.0, 6.0)
    assert found.tolist() == [0.0, 3.0, 6.0]


def test_bounds_may_differ_by_channel() -> None:
    moments, highs = Moments(MEAN, DEVIATION), torch.linspace(1, 4, 7, dtype=torch.float64)
    found = moments.clipped_mean(0.0, highs)
    for c in range(7):
        single = Moments(MEAN[c : c + 1], DEVIATION[c : c + 1]).clipped_mean(0.0, float(highs[c]))
        torch.testing.assert_close(found[c : c + 1], single)


def gaussian_behind_norm(clip: tuple[float, float] | None) -> tuple[float, float]:
    """The largest error of an expected mean behind a norm on Gaussian data, and the largest mean itself."""
    s = Sketch(9)
    x = s.norm(s.add("Conv", s.input(None, 4, 1, 1), s.weight(6, 4, 1, 1)), 6)
    y = s.add("Clip", x, *map(s.number, clip)) if clip else s.add("Relu", x)
    pooled = s.add("Flatten", s.add("GlobalAveragePool", y))
    network, constants = s.done(s.add("Gemm", pooled, s.weight(6, 2), s.weight(2)))
    conv, norm = network.nodes[0], network.nodes[1]
    # statistics that are true of the data: the mean and variance of a linear map of standard Gaussian inputs
    constants[norm.inputs[3]] = torch.zeros(6, dtype=torch.float64)
    constants[norm.inputs[4]] = constants[conv.inputs[1]].square().sum((1, 2, 3)) - 1e-3
    data = torch.randn(60_000, 4, 1, 1, generator=s.generator, dtype=torch.float64)
    data = torch.cat([data, -data])
    folded = fold_norms(network, constants)
    if clip:  # through the opened form, too, with the same answer
        opened, numbers = open_clips(network, constants).apply(network, constants)
        other = expected_means(opened, numbers, folded.moments)
        torch.testing.assert_close(other[y], expected_means(network, constants, folded.moments)[y])
    means = expected_means(network, constants, folded.moments)
    seen = evaluate(network.nodes, {**constants, "q": data}, [y, pooled])
    torch.testing.assert_close(means[y], means[pooled])
    return float((seen[y].mean((0, 2, 3)) - means[y]).abs().max()), float(means[y].abs().max())


def test_means_of_a_network_are_those_of_its_values_on_gaussian_data() -> None:
    for clip in (None, (0.0, 6.0), (-0.5, 1.0)):
        error, size = gaussian_behind_norm(clip)
        assert error < 0.01 and size > 0.3


def test_a_mean_that_is_not_known_is_left_out() -> None:
    network, constants, _ = normalized()
    moments = fold_norms(network, constants).moments
    means = expected_means(network, constants, moments)
    for node in network.nodes:
        if node.op in ("Conv", "ConvTranspose", "MatMul"):
            assert node.outputs[0] not in means
    assert not expected_means(*depthwise()[:2], {})


def test_moments_follow_the_scale_of_their_site() -> None:
    network, constants, _ = normalized()
    folded = fold_norms(network, constants)
    network, constants = folded.edit.apply(network, constants)
    site = next(site for site in find_sites(network, constants).sites if site.value in folded.moments)
    scale = torch.rand(site.channels, dtype=torch.float64) + 0.5
    found = scaled_by_site(dict(folded.moments), site, scale)[site.value]
    before = folded.moments[site.value]
    torch.testing.assert_close(found.mean * scale, before.mean)
    torch.testing.assert_close(found.deviation * scale, before.deviation)
    assert scaled_by_site({}, site, scale) == {}
