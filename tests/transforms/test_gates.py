"""Every spelling of a hard gate becomes HardSigmoid, and the network computes the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from bitwright.transforms import gates_in_parts
from conformance.networks import Sketch, moved, run

FEEDS = {"q": 4 * torch.randn(2, 3, 5, 5, dtype=torch.float64)}


def relu6(s: Sketch, x: str, offset: float = 3.0, high: float = 6.0) -> str:
    return s.add("Clip", s.add("Add", x, s.number(offset)), s.number(0.0), s.number(high))


def divided_last(s: Sketch, x: str) -> str:
    return s.add("Div", s.add("Mul", x, relu6(s, x)), s.number(6.0))


def divided_first(s: Sketch, x: str) -> str:
    return s.add("Mul", s.add("Div", relu6(s, x), s.number(6.0)), x)


def multiplied(s: Sketch, x: str) -> str:
    return s.add("Mul", x, s.add("Mul", s.number(1 / 6), relu6(s, x)))


def by_name(s: Sketch, x: str) -> str:
    return s.add("HardSwish", x)


def by_gate(s: Sketch, x: str) -> str:
    return s.add("Mul", s.add("HardSigmoid", x, alpha=1 / 6, beta=0.5), x)


SWISHES = [divided_last, divided_first, multiplied, by_name, by_gate]


@pytest.mark.parametrize("swish", SWISHES)
def test_a_hard_swish_becomes_a_clipped_value_times_its_gate(swish: Callable[[Sketch, str], str]) -> None:
    s = Sketch()
    made = swish(s, s.conv(s.input(2, 3, 5, 5), 4, 3))
    network, constants = s.done(s.conv(made, 2, 4))
    after, numbers = gates_in_parts(network, constants).apply(network, constants)
    assert Counter(node.op for node in after.nodes) == Counter(["Conv", "Clip", "HardSigmoid", "Mul", "Conv"])
    assert after.values[made].shape == network.values[made].shape and after.producers[made].op == "Mul"
    assert moved(run(network, constants, FEEDS), run(after, numbers, FEEDS)) < 1e-6


def test_a_gate_alone_is_cut_at_both_ends(  # what lies beyond is 0 or 1 already
) -> None:
    s = Sketch()
    x = s.conv(s.input(2, 3, 5, 5), 4, 3)
    network, constants = s.done(s.add("Div", relu6(s, x), s.number(6.0)))
    after, numbers = gates_in_parts(network, constants).apply(network, constants)
    assert [node.op for node in after.nodes] == ["Conv", "Clip", "HardSigmoid"]
    low, high = (float(numbers[name]) for name in after.nodes[1].inputs[1:])
    assert -3.5 < low < -3 and 3 < high < 3.5
    assert moved(run(network, constants, FEEDS), run(after, numbers, FEEDS)) < 1e-6


def test_the_cut_leaves_the_gate_closed_wherever_its_code_falls() -> None:
    s = Sketch()
    x = s.conv(s.input(2, 3, 5, 5), 4, 3)
    network, constants = s.done(s.add("HardSwish", x))
    after, numbers = gates_in_parts(network, constants).apply(network, constants)
    low = float(numbers[next(node for node in after.nodes if node.op == "Clip").inputs[1]])
    for high in (1.0, 10.0, 100.0):  # of the range, in 255 steps
        step = (high - low) / 255
        assert -round(-low / step) * step <= -3


@pytest.mark.parametrize("is_output", [False, True])
def test_a_value_that_others_read_is_not_clipped(is_output: bool) -> None:
    s = Sketch()
    x = s.conv(s.input(2, 3, 5, 5), 4, 3)
    made = s.add("HardSwish", x)
    network, constants = s.done(made, x) if is_output else s.done(s.add("Add", made, x))
    after, numbers = gates_in_parts(network, constants).apply(network, constants)
    assert "Clip" not in {node.op for node in after.nodes} and "HardSigmoid" in {node.op for node in after.nodes}
    assert moved(run(network, constants, FEEDS), run(after, numbers, FEEDS)) < 1e-6


def other_height(s: Sketch, x: str) -> str:
    return s.add("Div", s.add("Mul", x, relu6(s, x, high=5.0)), s.number(6.0))


def other_floor(s: Sketch, x: str) -> str:
    cut = s.add("Clip", s.add("Add", x, s.number(3.0)), s.number(-1.0), s.number(6.0))
    return s.add("Div", cut, s.number(6.0))


def other_factor(s: Sketch, x: str) -> str:
    return s.add("Div", s.add("Mul", s.add("Relu", x), relu6(s, x)), s.number(6.0))


def more_axes(s: Sketch, x: str) -> str:
    wide = s.constant(torch.full((1, 1, 1, 1, 1), 3.0, dtype=torch.float64))
    return s.add("Div", s.add("Clip", s.add("Add", x, wide), s.number(0.0), s.number(6.0)), s.number(6.0))


@pytest.mark.parametrize("write", [other_height, other_floor, other_factor, more_axes])
def test_what_is_no_gate_stays_as_it_is(write: Callable[[Sketch, str], str]) -> None:
    s = Sketch()
    network, constants = s.done(write(s, s.conv(s.input(2, 3, 5, 5), 4, 3)))
    after, numbers = gates_in_parts(network, constants).apply(network, constants)
    assert "HardSigmoid" not in {node.op for node in after.nodes} or write is other_factor
    assert moved(run(network, constants, FEEDS), run(after, numbers, FEEDS)) < 1e-6


def test_parts_that_others_read_stay() -> None:
    s = Sketch()
    x = s.conv(s.input(2, 3, 5, 5), 4, 3)
    cut = relu6(s, x)
    network, constants = s.done(s.add("Div", s.add("Mul", x, cut), s.number(6.0)), cut)
    assert gates_in_parts(network, constants).steps == ()
