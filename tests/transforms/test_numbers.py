"""Numbers behind activations go into the operators that read them; those in curves written in parts stay."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from bitwright.transforms import numbers_into_readers
from conformance.networks import Sketch, moved, run

FEEDS = {"q": torch.randn(2, 3, 5, 5, dtype=torch.float64)}


def activation(s: Sketch) -> str:
    return s.add("Relu", s.conv(s.input(2, 3, 5, 5), 4, 3))


def line(s: Sketch, x: str, factor: float, offset: float) -> str:
    return s.add("Add", s.add("Mul", s.number(factor), x), s.number(offset))


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("factor", [0.4, -2.5])
def test_a_line_goes_into_convolutions_but_for_a_sum_before_padding(factor: float, padding: int) -> None:
    s = Sketch()
    x = line(s, activation(s), factor, -0.7)
    made = [s.conv(x, 2, 4, 3, pads=[padding] * 4), s.conv(x, 5, 4, 1, pads=[0] * 4)]
    network, constants = s.done(*made)
    after, numbers = numbers_into_readers(network, constants).apply(network, constants)
    left = Counter(node.op for node in after.nodes)
    assert left == Counter({"Conv": 3, "Relu": 1} | ({"Add": 1} if padding else {}))
    assert moved(run(network, constants, FEEDS), run(after, numbers, FEEDS)) < 1e-12


def test_matrix_products_and_groups_take_it_too() -> None:
    s = Sketch()
    x = line(s, activation(s), 0.3, 1.5)
    pooled = s.add("Flatten", s.add("GlobalAveragePool", s.conv(x, 4, 4, 1, group=2)))
    more = line(s, s.add("Relu", pooled), 3.0, -1.0)
    network, constants = s.done(s.add("MatMul", more, s.weight(4, 6)), s.add("Gemm", more, s.weight(4, 3), alpha=0.5))
    after, numbers = numbers_into_readers(network, constants).apply(network, constants)
    assert "Mul" not in {node.op for node in after.nodes}
    assert moved(run(network, constants, FEEDS), run(after, numbers, FEEDS)) < 1e-12


def test_a_value_that_others_read_keeps_its_line() -> None:
    s = Sketch()
    x = line(s, activation(s), 0.3, 1.5)
    network, constants = s.done(s.conv(x, 2, 4, 1), s.add("Sigmoid", x))
    assert numbers_into_readers(network, constants).steps == ()


def test_a_weight_that_two_operators_read_is_left() -> None:
    s = Sketch()
    x = activation(s)
    weight = s.weight(4, 4, 1, 1)
    scaled = s.add("Mul", x, s.number(0.5))
    network, constants = s.done(s.add("Conv", scaled, weight), s.add("Conv", x, weight))
    assert numbers_into_readers(network, constants).steps == ()


def test_the_half_of_a_curve_in_parts_stays() -> None:
    s = Sketch()
    x = s.conv(s.input(2, 3, 5, 5), 4, 3)
    erf = s.add("Add", s.add("Erf", s.add("Div", x, s.number(2**0.5))), s.number(1.0))
    network, constants = s.done(s.conv(s.add("Mul", s.add("Mul", x, erf), s.number(0.5)), 2, 4))
    assert numbers_into_readers(network, constants).steps == ()


def test_a_number_behind_a_swish_goes() -> None:
    s = Sketch()
    x = s.conv(s.input(2, 3, 5, 5), 4, 3)
    network, constants = s.done(s.conv(s.add("Mul", s.add("Mul", x, s.add("Sigmoid", x)), s.number(0.5)), 2, 4))
    after, numbers = numbers_into_readers(network, constants).apply(network, constants)
    assert Counter(node.op for node in after.nodes)["Mul"] == 1
    assert moved(run(network, constants, FEEDS), run(after, numbers, FEEDS)) < 1e-12


def test_a_factor_of_zero_leaves_weights_alone() -> None:
    s = Sketch()
    network, constants = s.done(s.conv(line(s, activation(s), 0.0, 1.0), 2, 4, 1))
    after, numbers = numbers_into_readers(network, constants).apply(network, constants)
    assert "Mul" in {node.op for node in after.nodes}
    assert moved(run(network, constants, FEEDS), run(after, numbers, FEEDS)) < 1e-12
