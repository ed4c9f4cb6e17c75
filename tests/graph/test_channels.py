"""Which channels may be scaled: every site that is found holds in float64, and known networks give known sites."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bitwright.graph.channels import Kind, Sites, find_sites
from bitwright.transforms import fold_norms, open_clips, rescaling
from conformance.networks import (
    TOYS,
    Sketch,
    Toy,
    depthwise,
    moved,
    normalized,
    plain,
    residual,
    run,
    shuffled,
    squeeze_excite,
    transformer,
)


def sites_of(toy: Toy) -> Sites:
    return find_sites(toy[0], toy[1])


def names(toy: Toy, found: Sites) -> list[tuple[str, list[str]]]:
    """Each site as the operator of its producer and those of the readers."""
    network = toy[0]
    return [
        (network.producers[site.value].op, [network.readers(tie.constant)[0][0].op for tie in site.sinks])
        for site in found.sites
    ]


@pytest.mark.parametrize("make", TOYS)
def test_every_site_keeps_the_output_under_a_random_scale(make: Callable[[], Toy]) -> None:
    network, constants, inputs = make()
    network, constants = open_clips(network, constants).apply(network, constants)
    network, constants = fold_norms(network, constants).edit.apply(network, constants)
    before = run(network, constants, inputs)
    sites = find_sites(network, constants).sites
    assert sites
    for site in sites:
        scale = torch.exp(torch.randn(site.channels, dtype=torch.float64))
        edit = rescaling(site, scale)
        edited = edit.constants(constants)
        assert moved(before, run(network, edited, inputs)) < 1e-10, str(site)
        back = edit.inverse().constants(edited)
        for name, tensor in constants.items():
            torch.testing.assert_close(back[name], tensor, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", TOYS)
def test_every_producer_is_a_site_or_refused_with_a_reason(make: Callable[[], Toy]) -> None:
    network, constants, _ = make()
    found = find_sites(network, constants)
    told = [site.value for site in found.sites] + [refusal.value for refusal in found.refusals]
    assert len(told) == len(set(told)) and all(refusal.reason for refusal in found.refusals)
    linear = {"Conv", "ConvTranspose", "Gemm", "BatchNormalization", "LayerNormalization"}
    assert {node.outputs[0] for node in network.nodes if node.op in linear} <= set(told)


def test_sites_are_found_from_shapes_of_weights_alone() -> None:
    network, constants, _ = transformer()
    small = {name: t for name, t in constants.items() if not t.is_floating_point()}
    assert names(transformer(), find_sites(network, small)) == names(transformer(), find_sites(network, constants))


def test_conv_relu_conv_is_one_site() -> None:
    assert names(plain(), sites_of(plain())) == [("Conv", ["Conv"])]


def test_relu6_is_refused_until_each_channel_has_its_own_bound() -> None:
    network, constants, inputs = depthwise()
    found = find_sites(network, constants)
    assert not found.sites and "bounds all channels alike" in found.refusals[0].reason
    opened, numbers = open_clips(network, constants).apply(network, constants)
    assert names((opened, numbers, inputs), find_sites(opened, numbers)) == [("Conv", ["Conv"]), ("Conv", ["Conv"])]


def test_no_site_crosses_a_residual_addition() -> None:
    found = sites_of(residual())
    assert names(residual(), found) == [("Conv", ["Conv"])]
    assert found.sites[0].channels == 6
    assert sum("joins" in refusal.reason for refusal in found.refusals) == 2


def test_a_gated_value_is_one_site_with_both_its_readers() -> None:
    found = sites_of(squeeze_excite())
    assert names(squeeze_excite(), found) == [("Conv", ["Conv", "Conv"]), ("Conv", ["Conv"])]
    assert any("HardSigmoid" in refusal.reason for refusal in found.refusals)


def test_channels_are_followed_through_every_move() -> None:
    toy = shuffled()
    (site,) = sites_of(toy).sites
    # 6 channels shuffled as 2 x 3: 0 3 1 4 2 5; the last four come first, then four of another path, then 0 3; one zero
    # before and after; reversed from place 10
    assert site.sinks[0].index.reshape(-1).tolist() == [3, 0, -1, -1, -1, -1, 5, 2, 4, 1, -1]


def test_transformer_sites_are_norm_to_linears_value_to_output_and_up_to_down() -> None:
    toy = transformer()
    found = names(toy, sites_of(toy))
    assert found == [
        ("LayerNormalization", ["MatMul"] * 3),
        ("MatMul", ["MatMul"]),
        ("Mul", ["MatMul", "MatMul"]),
        ("MatMul", ["MatMul"]),
    ]
    kinds = [site.kind for site in sites_of(toy).sites]
    assert kinds == [Kind.NORM, Kind.LINEAR, Kind.GAIN, Kind.LINEAR]


def test_a_normalization_that_stays_is_a_producer() -> None:
    found = sites_of(normalized())
    assert any(site.kind is Kind.NORM for site in found.sites)


def refused(sketch: Sketch, *outputs: str) -> str:
    """Why the first producer is no site."""
    network, constants = sketch.done(*outputs)
    return find_sites(network, constants).refusals[0].reason


def test_a_value_that_is_given_out_is_refused() -> None:
    s = Sketch()
    x = s.conv(s.input(1, 3, 4, 4), 4, 3)
    assert "gives out" in refused(s, s.conv(x, 3, 4), x)


def test_a_weight_with_two_readers_is_refused() -> None:
    s = Sketch()
    x, weight = s.input(1, 3, 4, 4), s.weight(3, 3, 1, 1)
    assert "several places" in refused(s, s.add("Conv", s.add("Conv", x, weight), weight))


def test_a_product_of_a_value_with_itself_is_refused() -> None:
    s = Sketch()
    x = s.conv(s.input(1, 3, 4, 4), 4, 3)
    assert "input 1" in refused(s, s.conv(s.add("Mul", x, x), 3, 4))


def test_one_added_number_for_all_channels_is_refused() -> None:
    s = Sketch()
    x = s.add("Add", s.conv(s.input(1, 3, 4, 4), 4, 3), s.number(0.5))
    assert "one number for several channels" in refused(s, s.conv(x, 3, 4))


def test_padding_with_another_number_than_zero_is_refused() -> None:
    s = Sketch()
    x = s.conv(s.input(1, 3, 4, 4), 4, 3)
    x = s.add("Pad", x, s.integers(0, 0, 1, 1, 0, 0, 1, 1), s.number(1.0))
    assert "other than zero" in refused(s, s.conv(x, 3, 4))


def test_a_sum_over_channels_is_refused() -> None:
    s = Sketch()
    x = s.add("ReduceMean", s.conv(s.input(1, 3, 4, 4), 4, 3), s.integers(1))
    assert "mixes" in refused(s, s.conv(x, 3, 1))


def test_an_operator_that_is_not_known_is_refused_by_name() -> None:
    s = Sketch()
    assert "Erf" in refused(s, s.conv(s.add("Erf", s.conv(s.input(1, 3, 4, 4), 4, 3)), 3, 4))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_and_back_run_on_labels(mode: str) -> None:
    s = Sketch()
    x = s.add("DepthToSpace", s.conv(s.input(2, 3, 4, 4), 8, 3), blocksize=2, mode=mode)
    network, constants = s.done(s.conv(s.add("SpaceToDepth", x, blocksize=2), 3, 8))
    (site,) = find_sites(network, constants).sites
    inputs = {"q": torch.randn(2, 3, 4, 4, dtype=torch.float64)}
    edited = rescaling(site, torch.rand(8, dtype=torch.float64) + 0.5).constants(constants)
    assert moved(run(network, constants, inputs), run(network, edited, inputs)) < 1e-12


def test_a_normalization_over_channels_and_positions_is_scaled_by_channel() -> None:
    s = Sketch()
    x = s.add("LayerNormalization", s.input(2, 5, 4, 4), s.weight(5, 4, 4), s.weight(5, 4, 4), axis=1)
    network, constants = s.done(s.conv(x, 3, 5, 3))
    (site,) = find_sites(network, constants).sites
    assert site.kind is Kind.NORM and site.channels == 5
    inputs = {"q": torch.randn(2, 5, 4, 4, dtype=torch.float64)}
    edited = rescaling(site, torch.rand(5, dtype=torch.float64) + 0.5).constants(constants)
    assert moved(run(network, constants, inputs), run(network, edited, inputs)) < 1e-12
