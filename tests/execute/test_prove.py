"""A wrong site cannot pass, and right ones are not lost beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from bitwright.execute.prove import prove
from bitwright.graph.channels import Site, find_sites
from bitwright.graph.network import Node
from conformance.networks import TOYS, Sketch, Toy, evaluate, residual, squeeze_excite, transformer


@pytest.mark.parametrize("make", TOYS)
def test_sites_that_are_found_are_proved(make: Callable[[], Toy]) -> None:
    network, constants, inputs = make()
    sites = find_sites(network, constants).sites
    proved = prove(network, constants, sites, inputs, evaluate)
    assert proved.sites == sites and proved.rejected == ()


def test_a_sound_network_costs_two_runs() -> None:
    network, constants, inputs = transformer()
    runs = []

    def counted(*given: object) -> object:
        runs.append(1)
        return evaluate(*given)  # type: ignore[arg-type]

    prove(network, constants, find_sites(network, constants).sites, inputs, counted)  # type: ignore[arg-type]
    assert len(runs) == 2


def broken(site: Site) -> Site:
    """The site with the first of its readers forgotten."""
    return replace(site, sinks=site.sinks[1:], reads=site.reads[1:])


def test_a_site_that_forgets_a_reader_is_rejected_alone_and_reported() -> None:
    network, constants, inputs = transformer()
    sites = find_sites(network, constants).sites
    for wrong in range(len(sites)):
        tried = [broken(site) if i == wrong else site for i, site in enumerate(sites)]
        proved = prove(network, constants, tried, inputs, evaluate)
        assert [refusal.value for refusal in proved.rejected] == [sites[wrong].value]
        assert "moved by" in proved.rejected[0].reason
        assert proved.sites == tuple(tried[:wrong] + tried[wrong + 1 :])


def test_a_site_across_an_addition_that_rules_would_refuse_is_rejected() -> None:
    network, constants, inputs = residual()
    (site,) = find_sites(network, constants).sites
    convs = [node for node in network.nodes if node.op == "Conv"]
    gemm = next(node for node in network.nodes if node.op == "Gemm")
    source = replace(site.sources[0], constant=convs[2].inputs[1], index=torch.arange(8).reshape(8, 1, 1, 1))
    sink = replace(site.sinks[0], constant=gemm.inputs[1], index=torch.arange(8).reshape(1, 8))
    wrong = replace(site, value="wrong", channels=8, sources=(source,), shifts=(), sinks=(sink,))
    assert prove(network, constants, [site, wrong], inputs, evaluate).rejected[0].value == "wrong"


def test_wrong_indices_are_rejected() -> None:
    network, constants, inputs = squeeze_excite()
    site = find_sites(network, constants).sites[0]
    turned = replace(site.sinks[0], index=site.sinks[0].index.roll(1, 1))
    wrong = replace(site, sinks=(turned, *site.sinks[1:]))
    assert prove(network, constants, [wrong], inputs, evaluate).sites == ()


def test_a_network_that_gives_nan_is_an_error_that_names_the_output() -> None:
    s = Sketch()
    x = s.add("Sqrt", s.conv(s.input(1, 3, 4, 4), 4, 3))
    network, constants = s.done(x)
    with pytest.raises(ValueError, match=x):
        prove(network, constants, [], {"q": torch.randn(1, 3, 4, 4)}, evaluate)


def test_sites_beyond_an_operator_that_cannot_be_run_are_rejected_and_those_before_are_tried() -> None:
    s = Sketch()
    x = s.add("Relu", s.conv(s.input(1, 3, 4, 4), 4, 3))
    x = s.add("Bernoulli", s.conv(x, 3, 4))
    network, constants = s.done(s.conv(s.add("Relu", s.conv(x, 4, 3)), 3, 4))
    first, second = find_sites(network, constants).sites
    found = prove(network, constants, [first, second], {"q": torch.randn(1, 3, 4, 4)})
    assert found.sites == (first,)
    assert found.rejected[0].value == second.value and "Bernoulli" in found.rejected[0].reason
    wrong = broken(first)
    wrong = replace(wrong, sources=(), shifts=first.shifts)
    assert len(prove(network, constants, [wrong], {"q": torch.randn(1, 3, 4, 4)}).rejected) == 1


def test_the_packages_own_interpreter_agrees_with_the_reference() -> None:
    network, constants, inputs = transformer()
    sites = find_sites(network, constants).sites
    tried = [broken(sites[0]), *sites[1:]]
    assert prove(network, constants, tried, inputs) == prove(network, constants, tried, inputs, evaluate)


def test_casts_to_shorter_floats_are_widened() -> None:
    s = Sketch()
    x = s.add("Relu", s.conv(s.input(1, 3, 4, 4), 4, 3))
    network, constants = s.done(s.conv(s.add("Cast", x, to=11), 3, 4))
    shorter = [replace(node, attributes={"to": 1}) if node.op == "Cast" else node for node in network.nodes]
    sites = find_sites(network, constants).sites

    def seen(nodes: list[Node], *rest: object) -> object:
        assert [node.attributes["to"] for node in nodes if node.op == "Cast"] == [11]
        return evaluate(nodes, *rest)  # type: ignore[arg-type]

    inputs = {"q": torch.randn(1, 3, 4, 4)}
    found = prove(replace(network, nodes=tuple(shorter)), constants, sites, inputs, seen)  # type: ignore[arg-type]
    assert len(found.sites) == 1
