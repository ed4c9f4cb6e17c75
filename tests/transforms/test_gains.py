"""Gains in front of matrix products: nothing changes, and a scale finds a place where the stream had none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitwright.execute.prove import prove
from bitwright.graph.channels import Kind, find_sites
from bitwright.graph.network import Network
from bitwright.transforms import rescaling, with_gains
from conformance.networks import Sketch, evaluate, moved, run


def post_norm(is_node: bool) -> tuple[Network, dict[str, Tensor], dict[str, Tensor]]:
    """Two matrix products and a residual sum read a norm: one operator, or written out as exporters do."""
    s = Sketch(11)
    x = s.input(None, None, 8)
    if is_node:
        normed = s.add("LayerNormalization", x, s.weight(8), s.weight(8), axis=-1)
    else:
        centred = s.add("Sub", x, s.add("ReduceMean", x, s.integers(-1)))
        size = s.add("Sqrt", s.add("ReduceMean", s.add("Mul", centred, centred), s.integers(-1)))
        normed = s.add("Add", s.add("Mul", s.add("Div", centred, size), s.weight(8)), s.weight(8))
    first = s.add("Tanh", s.add("MatMul", normed, s.weight(8, 8)))
    product = s.add("Mul", first, s.add("Add", s.add("MatMul", normed, s.weight(8, 8)), s.weight(8)))
    feeds = {x: torch.randn(2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
    return *s.done(s.add("Add", normed, product)), feeds


@pytest.mark.parametrize("is_node", [True, False])
def test_a_norm_that_feeds_the_stream_gets_a_site(is_node: bool) -> None:
    network, constants, feeds = post_norm(is_node)
    assert find_sites(network, constants).sites == ()
    before = run(network, constants, feeds)
    network, constants = with_gains(network, constants).apply(network, constants)
    assert moved(before, run(network, constants, feeds)) == 0
    proved = prove(network, constants, find_sites(network, constants).sites, feeds, evaluate)
    assert [site.kind for site in proved.sites] == [Kind.GAIN] and len(proved.sites[0].sinks) == 2
    scale = torch.linspace(0.2, 5.0, 8, dtype=torch.float64)
    assert moved(before, run(network, rescaling(proved.sites[0], scale).constants(constants), feeds)) < 1e-10


def test_products_run_after_their_gain_and_before_what_reads_them() -> None:
    network, constants, _ = post_norm(True)
    after = with_gains(network, constants).network(network)
    known = {*after.inputs, *after.constants}
    for node in after.nodes:
        assert known.issuperset(filter(None, node.inputs)), node
        known.update(node.outputs)


def test_a_value_that_products_alone_read_needs_no_gain() -> None:
    s = Sketch(12)
    x = s.add("Relu", s.input(None, 8))
    y = s.add("Add", s.add("MatMul", x, s.weight(8, 8)), s.add("MatMul", x, s.weight(8, 8)))
    network, constants = s.done(y)
    assert with_gains(network, constants).steps == ()
