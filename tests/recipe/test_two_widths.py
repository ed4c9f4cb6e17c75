"""Activations of fewer bits are those that are multiplied; what is only added, averaged or joined has more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from bitwright.engine.prepare import without_trials
from bitwright.graph.network import Network
from bitwright.numerics import Int
from bitwright.recipe.network import NetworkPlan, NetworkRecipe, divided_readers, plan_network, w4a4
from bitwright.recipe.targets import TARGETS, Role
from networks import exported, network


def planned(name: str, folder: Path, recipe: NetworkRecipe) -> tuple[Network, NetworkPlan]:
    net = without_trials(exported(network(name), folder), recipe, folder).network()
    return net, plan_network(net, recipe)


def bits_read(net: Network, plan: NetworkPlan, role: Role) -> dict[str, list[int]]:
    """By node of this role, the bits of the activations that it reads."""
    bits = {point.value: point.spec.format.bits for point in plan.placement.points}
    nodes = [node for node in net.nodes if plan.placement.integer.get(node.name) is role]
    return {node.name: [bits[name] for name in node.inputs if name in bits] for node in nodes}


def made_by(net: Network, name: str) -> list[str]:
    """The outputs of a node, and what a ReLU or Clip makes of them."""
    made = list(next(node for node in net.nodes if node.name == name).outputs)
    return made + [node.made for node in net.nodes if node.op in ("Relu", "Clip") and node.inputs[0] in made]


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_what_the_first_operator_makes_has_eight_bits_for_all_that_read_it(
    tmp_path: Path, target: str, name: str
) -> None:
    net, plan = planned(name, tmp_path, w4a4(target))
    made = made_by(net, next(iter(bits_read(net, plan, Role.LINEAR))))
    points = [point for point in plan.placement.points if point.value in made]
    assert points and all(point.spec.format.bits == 8 and point.readers is None for point in points)
    assert all(name not in made for node in net.nodes if node.op == "Identity" for name in node.inputs)


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("name", ["residual", "depthwise", "attention"])
def test_multiplications_read_few_bits_but_the_first_and_the_last_and_sums_read_eight(
    tmp_path: Path, target: str, name: str
) -> None:
    net, plan = planned(name, tmp_path, w4a4(target))
    found = bits_read(net, plan, Role.LINEAR)
    read = {node.name: node.inputs[0] for node in net.nodes}
    first, *inner, last = found
    assert found[first] == found[last] == [8]
    own = [node for node in inner if read[node] not in (read[first], read[last], *made_by(net, first))]
    assert own and all(found[node] == [4] for node in own)
    assert all(found == [4, 4] for found in bits_read(net, plan, Role.PRODUCT).values())
    assert all(set(found) <= {8} for found in bits_read(net, plan, Role.BLEND).values())


class Chain(nn.Module):
    """A convolution, and two sums of a value with what a convolution makes of it."""

    inputs = ((3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(width, 4, 3, padding=1) for width in (3, 4, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.one(x)).relu()
        x = (x + self.two(x)).relu()
        return self.head(x.mean((2, 3)))


def test_a_value_that_is_multiplied_and_added_is_copied_for_the_multiplication(tmp_path: Path) -> None:
    recipe = w4a4()
    net = without_trials(exported(Chain().eval(), tmp_path), recipe, tmp_path).network()
    plan = plan_network(net, recipe)
    copies = [node for node in net.nodes if node.op == "Identity"]
    assert len(copies) == 1 and divided_readers(net, recipe) == {}
    points = {point.value: point for point in plan.placement.points}
    for copy in copies:
        assert points[copy.inputs[0]].spec.format.bits == 8 and points[copy.made].spec.format.bits == 4
        assert points[copy.inputs[0]].group != points[copy.made].group
        assert plan.placement.integer[copy.name] is Role.MOVE


def test_nothing_is_copied_where_all_have_the_same_bits(tmp_path: Path) -> None:
    for recipe in (NetworkRecipe(), replace(w4a4(), edge_bits=4)):
        net, plan = planned("residual", tmp_path, recipe)
        assert not any(node.op == "Identity" for node in net.nodes)
        assert {point.spec.format.bits for point in plan.placement.points} == {recipe.activation_bits}


def test_fewer_bits_keep_the_form_that_the_engine_wants(tmp_path: Path) -> None:
    net, plan = planned("attention", tmp_path, w4a4("openvino"))
    points = {point.value: point for point in plan.placement.points}
    products = [node for node in net.nodes if plan.placement.integer.get(node.name) is Role.PRODUCT]
    assert products
    for node in products:
        second = points[node.inputs[1]].spec
        assert second.format == Int(4) and second.zero is None
