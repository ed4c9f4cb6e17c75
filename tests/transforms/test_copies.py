"""Copies of values for some of their readers: the network computes what it did."""

from __future__ import annotations

import torch

from bitwright.transforms import with_copies, without_copies
from conformance.networks import Sketch, moved, run


def test_readers_named_read_one_copy_that_runs_before_the_first_of_them() -> None:
    s = Sketch()
    x = s.add("Relu", s.input(1, 3, 4, 4))
    first, second = s.add("Conv", x, s.weight(3, 3, 1, 1)), s.add("Conv", x, s.weight(3, 3, 1, 1))
    network, constants = s.done(s.add("Add", s.add("Add", first, second), x))
    names = [node.name for node in network.nodes if node.op == "Conv"]
    edit = with_copies(network, {x: names})
    after, numbers = edit.apply(network, constants)
    inputs = {"q": torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))}
    assert moved(run(network, constants, inputs), run(after, numbers, inputs)) == 0
    assert [node.op for node in after.nodes] == ["Relu", "Identity", "Conv", "Conv", "Add", "Add"]
    copy = after.nodes[1]
    assert copy.inputs == (x,) and after.values[copy.made].shape == network.values[x].shape
    assert all(node.inputs[0] == copy.made for node in after.nodes if node.op == "Conv")
    assert after.nodes[-1].inputs[1] == x
    back, _ = edit.inverse().apply(after, numbers)
    assert back.nodes == network.nodes
    assert without_copies(after).apply(after, numbers)[0].nodes == network.nodes


def test_a_copy_gets_a_name_that_nothing_has() -> None:
    s = Sketch()
    x = s.add("Relu", s.input(1, 3, 4, 4))
    network, _ = s.done(s.add("Conv", x, s.weight(3, 3, 1, 1)))
    names = [node.name for node in network.nodes if node.op == "Conv"]
    once = with_copies(network, {x: names}).network(network)
    twice = with_copies(once, {x: [node.name for node in once.nodes if node.op == "Identity"]}).network(once)
    made = [node.made for node in twice.nodes if node.op == "Identity"]
    assert len(set(made)) == 2
