"""Equalization: the network stays, the ranges meet, and dead channels and bounds are respected."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bitwright.graph.channels import Kind, find_sites
from bitwright.transforms import Equalize, channel_ranges, close_clips, fold_norms, open_clips
from conformance.networks import TOYS, Sketch, Toy, depthwise, moved, plain, run


def equalized(toy: Toy, method: Equalize = Equalize()) -> tuple[Toy, Toy]:
    """The network with its Clips open and its norms folded, before and after equalization."""
    network, constants, inputs = toy
    network, constants = open_clips(network, constants).apply(network, constants)
    network, constants = fold_norms(network, constants).edit.apply(network, constants)
    sites = find_sites(network, constants).sites
    found = method.scales(sites, constants)
    assert found.converged
    return (network, constants, inputs), (network, found.edit(sites).constants(constants), inputs)


@pytest.mark.parametrize("make", TOYS)
def test_the_output_stays_and_both_ranges_of_every_site_meet(make: Callable[[], Toy]) -> None:
    before, after = equalized(make())
    assert moved(run(*before), run(*after)) < 1e-10
    network, constants, _ = after
    for site in find_sites(network, constants).sites:
        if site.kind is Kind.LINEAR:
            source = channel_ranges(site.sources, constants, site.channels)
            sink = channel_ranges(site.sinks, constants, site.channels)
            alive = (source > 0) & (sink > 0)
            torch.testing.assert_close(source[alive], sink[alive], rtol=2e-3, atol=0)


def test_ranges_are_those_of_a_loop_over_channels() -> None:
    network, constants, _ = plain()
    (site,) = find_sites(network, constants).sites
    first, second = (constants[node.inputs[1]] for node in network.nodes if node.op == "Conv")
    assert channel_ranges(site.sources, constants, 8).tolist() == [float(first[i].abs().max()) for i in range(8)]
    assert channel_ranges(site.sinks, constants, 8).tolist() == [float(second[:, i].abs().max()) for i in range(8)]


def test_a_pair_is_done_at_once_by_the_closed_form() -> None:
    network, constants, _ = plain()
    (site,) = find_sites(network, constants).sites
    first, second = (constants[node.inputs[1]] for node in network.nodes if node.op == "Conv")
    found = Equalize().scales([site], constants).scales[site.value]
    expected = [float((first[i].abs().max() / second[:, i].abs().max()).sqrt()) for i in range(8)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


def depthwise_weights(toy: Toy) -> list[Tensor]:
    return [toy[1][node.inputs[1]] for node in toy[0].nodes if node.op == "Conv"]


def test_a_depthwise_triple_ends_at_the_geometric_mean_of_its_three_ranges() -> None:
    before, after = equalized(depthwise())
    first, middle, last = depthwise_weights(before)
    for c in range(8):
        mean = (float(first[c].abs().max()) * float(middle[c].abs().max()) * float(last[:, c].abs().max())) ** (1 / 3)
        found = depthwise_weights(after)
        for size in (found[0][c], found[1][c], found[2][:, c]):
            assert float(size.abs().max()) == pytest.approx(mean, rel=1e-3)


def test_channels_that_are_zero_on_one_side_keep_their_numbers() -> None:
    network, constants, _ = plain()
    first, second = (node.inputs[1] for node in network.nodes if node.op == "Conv")
    constants[first][2] = 0
    constants[second][:, 5] = 0
    (site,) = find_sites(network, constants).sites
    scale = Equalize().scales([site], constants).scales[site.value]
    assert float(scale[2]) == 1 and float(scale[5]) == 1 and bool(torch.isfinite(scale).all())


def test_no_channel_is_scaled_beyond_the_limit() -> None:
    network, constants, _ = plain()
    first = next(node.inputs[1] for node in network.nodes)
    constants[first][0] *= 1e12
    (site,) = find_sites(network, constants).sites
    found = Equalize(limit=100).scales([site], constants)
    assert found.converged and float(found.scales[site.value].max()) == pytest.approx(100, rel=1e-12)


def test_settings_that_make_no_sense_are_errors() -> None:
    for wrong in ({"tolerance": 0.0}, {"sweeps": 0}, {"limit": 1.0}):
        with pytest.raises(ValueError, match="positive"):
            Equalize(**wrong)  # type: ignore[arg-type]


def test_clips_whose_bounds_stayed_equal_are_closed_again() -> None:
    network, constants, inputs = depthwise()
    opened, numbers = open_clips(network, constants).apply(network, constants)
    assert "Clip" not in [node.op for node in opened.nodes]
    assert moved(run(network, constants, inputs), run(opened, numbers, inputs)) == 0
    closed, again = close_clips(opened, numbers).apply(opened, numbers)
    assert [node.op for node in closed.nodes] == [node.op for node in network.nodes]
    assert moved(run(network, constants, inputs), run(closed, again, inputs)) == 0


def test_a_clip_with_another_lower_bound_is_opened_to_max_and_min() -> None:
    s = Sketch()
    x = s.add("Clip", s.conv(s.input(1, 3, 4, 4), 4, 3), s.number(-0.5), s.number(1.0))
    network, constants = s.done(s.conv(x, 3, 4))
    inputs = {"q": torch.randn(1, 3, 4, 4, dtype=torch.float64)}
    opened, numbers = open_clips(network, constants).apply(network, constants)
    assert [node.op for node in opened.nodes] == ["Conv", "Max", "Min", "Conv"]
    assert moved(run(network, constants, inputs), run(opened, numbers, inputs)) == 0
    before, after = equalized((network, constants, inputs))
    assert moved(run(*before), run(*after)) < 1e-10


def test_a_bound_that_the_quantized_range_hides_is_left_out() -> None:
    from bitwright.transforms import without_bounds

    network, constants, _ = depthwise()
    opened, numbers = open_clips(network, constants).apply(network, constants)
    made = [node.outputs[0] for node in opened.nodes if node.op == "Min"]
    after = without_bounds(opened, numbers, {made[0]: 5.9, made[1]: 6.1}).network(opened)
    assert [node.op for node in after.nodes] == ["Conv", "Relu", "Conv", "Relu", "Min", "Conv"]
