"""Constant parts and copies go out of a network, which computes what it did; what cannot go stays."""

from __future__ import annotations

import torch

from bitwright.transforms import as_constants, constant_nodes, without_copies
from conformance.networks import Sketch, evaluate, moved, run


def test_what_does_not_depend_on_the_input_becomes_constants_and_what_only_it_read_goes() -> None:
    s = Sketch()
    weight, scale = s.weight(4, 3, 1, 1), s.weight(4, 1, 1, 1)
    scaled = s.add("Mul", weight, scale)
    x = s.add("Conv", s.input(1, 3, 4, 4), s.add("Neg", scaled))
    network, constants = s.done(s.add("Add", x, scale))
    inputs = {"q": torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))}
    nodes = constant_nodes(network)
    assert [node.op for node in nodes] == ["Mul", "Neg"]
    made = evaluate(nodes, constants, [node.made for node in nodes])
    after, numbers = as_constants(network, constants, made).apply(network, constants)
    assert moved(run(network, constants, inputs), run(after, numbers, inputs)) < 1e-12
    assert [node.op for node in after.nodes] == ["Conv", "Add"]
    assert numbers.keys() == after.constants == {scale, nodes[-1].made}


def test_random_numbers_and_outputs_of_the_network_are_not_constant() -> None:
    s = Sketch()
    weight = s.weight(3, 3, 1, 1)
    noise = s.add("RandomNormalLike", weight)
    network, _ = s.done(s.add("Conv", s.input(1, 3, 4, 4), noise), s.add("Neg", weight))
    assert constant_nodes(network) == ()


def test_of_what_was_not_computed_the_nodes_stay() -> None:
    s = Sketch()
    network, constants = s.done(s.add("Conv", s.input(1, 3, 4, 4), s.add("Neg", s.weight(3, 3, 1, 1))))
    assert as_constants(network, constants, {}).steps == ()


def test_chains_of_copies_go_and_their_readers_read_the_first() -> None:
    s = Sketch()
    x = s.add("Identity", s.add("Dropout", s.add("Identity", s.input(1, 3, 4, 4))))
    network, constants = s.done(s.add("Identity", s.add("Relu", s.add("Identity", s.add("Add", x, x)))))
    inputs = {"q": torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))}
    after, numbers = without_copies(network).apply(network, constants)
    assert [node.op for node in after.nodes] == ["Add", "Relu", "Identity"]
    assert after.nodes[0].inputs == ("q", "q") and after.outputs == network.outputs
    assert moved(run(network, constants, inputs), run(after, numbers, inputs)) == 0


def test_a_dropout_that_may_drop_stays() -> None:
    s = Sketch()
    mode = s.constant(torch.tensor(True))
    network, _ = s.done(s.add("Relu", s.add("Dropout", s.input(1, 3, 4, 4), "", mode)))
    assert without_copies(network).steps == ()
