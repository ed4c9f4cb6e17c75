"""SmoothQuant at sites: the equation channel by channel, and the search over alpha."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bitwright.graph.channels import Site, find_sites
from bitwright.transforms import Smooth, activation_ranges, channel_ranges, rescaling, search_alpha
from conformance.networks import evaluate, moved, run, shuffled, transformer


def measured() -> tuple[list[tuple[Site, Tensor]], dict[str, Tensor]]:
    """Sites of the toy transformer with the activation range of each channel, by a loop over what is read."""
    network, constants, inputs = transformer()
    sites = find_sites(network, constants).sites
    found = []
    for site in sites:
        values = evaluate(network.nodes, {**constants, **inputs}, [read.value for read in site.reads])
        largest = {name: x.abs().reshape(-1, x.shape[-1]).amax(0) for name, x in values.items()}
        found.append((site, activation_ranges(site, largest)))
    return found, constants


def test_the_scale_is_the_equation_of_the_paper() -> None:
    for site, largest in measured()[0]:
        constants = measured()[1]
        weight = channel_ranges(site.sinks, constants, site.channels)
        for alpha in (0.0, 0.3, 0.5, 1.0):
            scale = Smooth(alpha).scale(site, largest, constants)
            for c in range(site.channels):
                expected = float(largest[c]) ** alpha / float(weight[c]) ** (1 - alpha)
                assert float(scale[c]) == pytest.approx(expected, rel=1e-12)


def test_at_one_half_activation_and_weight_reach_equally_far() -> None:
    sites, constants = measured()
    network, _, inputs = transformer()
    before = run(network, constants, inputs)
    for site, largest in sites:
        edited = rescaling(site, Smooth(0.5).scale(site, largest, constants)).constants(constants)
        assert moved(before, run(network, edited, inputs)) < 1e-10
        values = evaluate(network.nodes, {**edited, **inputs}, [read.value for read in site.reads])
        seen = activation_ranges(site, {n: x.abs().reshape(-1, x.shape[-1]).amax(0) for n, x in values.items()})
        torch.testing.assert_close(seen, channel_ranges(site.sinks, edited, site.channels), rtol=1e-9, atol=0)


def test_ranges_are_taken_to_the_channel_that_each_place_holds() -> None:
    network, constants, _ = shuffled()
    (site,) = find_sites(network, constants).sites
    found = activation_ranges(site, {site.reads[0].value: torch.arange(1.0, 12.0)})
    # places hold 3 0 - - - - 5 2 4 1 -, see the test of sites
    assert found.tolist() == [2.0, 10.0, 8.0, 1.0, 9.0, 7.0]


def test_a_channel_without_activation_or_weight_stays() -> None:
    (site, largest), *_ = measured()[0]
    constants = measured()[1]
    largest[3] = 0
    for tie in site.sinks:
        constants[tie.constant][5] = 0
    scale = Smooth(0.5).scale(site, largest, constants)
    assert float(scale[3]) == 1 and float(scale[5]) == 1 and bool((scale > 0).all())


def test_the_search_takes_the_least_loss_and_may_leave_the_site() -> None:
    (site, largest), *_ = measured()[0]
    constants = measured()[1]
    scales = {alpha: Smooth(alpha).scale(site, largest, constants) for alpha in (0.25, 0.5, 0.75)}

    def loss_for(wanted: float) -> object:
        return lambda scale: float((scale - scales[wanted]).abs().sum())

    for wanted in scales:
        alpha, scale = search_alpha(site, largest, constants, list(scales), loss_for(wanted))  # type: ignore[arg-type]
        assert alpha == wanted and torch.equal(scale, scales[wanted])
    alpha, scale = search_alpha(site, largest, constants, [0.5], lambda s: float((s - 1).abs().sum()))
    assert alpha is None and bool((scale == 1).all())


def test_a_loss_that_is_not_a_number_never_wins() -> None:
    (site, largest), *_ = measured()[0]
    constants = measured()[1]
    losses = iter([math.nan, math.nan, 3.0, math.nan])
    assert search_alpha(site, largest, constants, [0.2, 0.4, 0.6], lambda _: next(losses))[0] == 0.4


def test_settings_that_make_no_sense_are_errors() -> None:
    with pytest.raises(ValueError, match="alpha"):
        Smooth(1.5)
