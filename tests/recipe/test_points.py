"""Where quantizers go, on small networks whose right answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitwright.graph.network import Network
from bitwright.numerics import Int, Spec
from bitwright.numerics.machine import Machine
from bitwright.recipe.network import NetworkRecipe, plan_network
from bitwright.recipe.points import Placement, place
from bitwright.recipe.targets import TARGETS, Role, find_target, suited
from bitwright.transforms import fold_norms, means_as_pools
from conformance.networks import Sketch
from networks import exported, network


def placed(name: str, folder: Path, target: str = "x86-vnni") -> tuple[Network, Placement]:
    source = exported(network(name), folder)
    constants = source.read(sorted(source.network().constants))
    net, constants = fold_norms(source.network(), constants).edit.apply(source.network(), constants)
    net = means_as_pools(net, constants).network(net)
    chosen = find_target(target)
    return net, place(net, chosen, chosen.activation())


def roles(net: Network, placement: Placement, op: str) -> set[Role | None]:
    return {placement.integer.get(node.name) for node in net.nodes if node.op == op}


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_residual_sum_runs_in_integers(tmp_path: Path, target: str) -> None:
    net, placement = placed("residual", tmp_path, target)
    assert roles(net, placement, "Add") == {Role.BLEND}
    assert roles(net, placement, "Conv") == {Role.LINEAR}


def test_a_relu_is_part_of_the_range_of_what_it_reads(tmp_path: Path) -> None:
    net, placement = placed("residual", tmp_path)
    points = {point.value for point in placement.points}
    relus = [node for node in net.nodes if node.op == "Relu"]
    assert relus
    assert {node.outputs[0] for node in relus} <= points
    assert not {node.inputs[0] for node in relus} & points


def test_a_pool_of_largest_values_shares_the_scale_of_what_it_reads(tmp_path: Path) -> None:
    net, placement = placed("residual", tmp_path)
    pool = next(node for node in net.nodes if node.op == "MaxPool")
    groups = {point.value: point.group for point in placement.points}
    assert groups[pool.outputs[0]] == groups[pool.inputs[0]]
    assert placement.sources(net)[groups[pool.outputs[0]]] == (pool.inputs[0],)


def test_softmax_and_normalization_stay_float_with_a_reason(tmp_path: Path) -> None:
    net, placement = placed("attention", tmp_path)
    for op in ("Softmax", "LayerNormalization"):
        names = [node.name for node in net.nodes if node.op == op]
        assert names
        assert all(f"no integer {op}" in placement.floats[name] for name in names)


def test_every_node_is_in_integers_or_has_a_reason(tmp_path: Path) -> None:
    for name in ("residual", "depthwise", "squeeze", "attention", "two_inputs"):
        net, placement = placed(name, tmp_path)
        assert {node.name for node in net.nodes} == placement.integer.keys() | placement.floats.keys()
        assert not placement.integer.keys() & placement.floats.keys()


def test_both_sides_of_a_product_of_activations_are_points(tmp_path: Path) -> None:
    net, placement = placed("attention", tmp_path)
    points = {point.value for point in placement.points}
    products = [node for node in net.nodes if placement.integer.get(node.name) is Role.PRODUCT]
    assert len(products) == 2
    assert all(set(node.inputs) <= points for node in products)


def test_a_float_value_that_float_operators_read_too_stays_float_for_them(tmp_path: Path) -> None:
    net, placement = placed("attention", tmp_path)
    norm = next(node for node in net.nodes if node.op == "LayerNormalization")
    point = next(point for point in placement.points if point.value == norm.outputs[0])
    assert point.readers is not None
    assert all(placement.integer[name] is Role.LINEAR for name in point.readers)


def test_a_node_that_is_kept_stays_float_for_the_given_reason(tmp_path: Path) -> None:
    source = exported(network("depthwise"), tmp_path)
    net, target = source.network(), find_target("x86-vnni")
    first = next(node.name for node in net.nodes if node.op == "Conv")
    placement = place(net, target, target.activation(), {first: "asked for"})
    assert placement.floats[first] == "asked for"
    assert first not in placement.integer


@pytest.mark.parametrize(("counts", "ceils"), [(1, 1), (1, 0), (0, 1)])
def test_a_mean_that_counts_padding_and_reaches_over_it_stays_float(counts: int, ceils: int) -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 6, 6)
    window: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    made = sketch.add("AveragePool", sketch.conv(x, 4, 4), **window, count_include_pad=counts, ceil_mode=ceils)
    net, _ = sketch.done(sketch.conv(made, 4, 4))
    values = {name: replace(value, dtype="float32") for name, value in net.values.items()}
    net, target = replace(net, values=values), find_target("x86-vnni")
    pool = next(node for node in net.nodes if node.op == "AveragePool")
    assert (pool.name in place(net, target, target.activation()).floats) is bool(counts and ceils)


class Joined(nn.Module):
    """Two convolutions of one input, side by side, read by a third."""

    inputs = ((3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.one(x), self.two(x)], 1))


@pytest.mark.parametrize(("target", "scales"), [("x86-vnni", 3), ("openvino", 1)])
def test_parts_that_are_joined_share_a_scale_only_where_the_engine_wants_it(
    tmp_path: Path, target: str, scales: int
) -> None:
    net, engine = exported(Joined().eval(), tmp_path).network(), find_target(target)
    placement = place(net, engine, engine.activation())
    join = next(node for node in net.nodes if node.op == "Concat")
    groups = {point.value: point.group for point in placement.points}
    assert len({groups[name] for name in (*join.inputs, *join.outputs)}) == scales
    sources = placement.sources(net)[groups[join.outputs[0]]]
    assert sources == (join.inputs if scales == 1 else join.outputs)


class Shortcut(nn.Module):
    """Two convolutions of one input whose outputs are added up."""

    inputs = ((3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.one(x) + self.two(x)))


@pytest.mark.parametrize(("target", "counts"), [("x86-vnni", [1, 1]), ("openvino", [1, 0]), ("tensorrt", [1, 0])])
def test_the_later_convolution_of_a_sum_is_not_rounded_where_the_engine_adds_first(
    tmp_path: Path, target: str, counts: list[int]
) -> None:
    net, engine = exported(Shortcut().eval(), tmp_path).network(), find_target(target)
    placement = place(net, engine, engine.activation())
    made = [node.made for node in net.nodes if node.op == "Conv"]
    points = [point.value for point in placement.points]
    assert [points.count(value) for value in made[:2]] == counts
    (total,) = [node for node in net.nodes if node.op == "Add"]
    assert placement.integer[total.name] is Role.BLEND


class Padded(nn.Module):
    """A mean that counts its padding, between two convolutions."""

    inputs = ((3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.one, self.pool, self.two = nn.Conv2d(3, 4, 1), nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.pool(self.one(x)))


def test_a_mean_that_counts_its_padding_stays_float_where_the_engine_pads_with_another_number(tmp_path: Path) -> None:
    net = exported(Padded().eval(), tmp_path).network()
    for target, is_float in (("x86-vnni", False), ("openvino", True)):
        placement = place(net, find_target(target), find_target(target).activation())
        (pool,) = [node for node in net.nodes if node.op == "AveragePool"]
        assert (pool.name in placement.floats) == is_float


def test_an_unknown_target_is_an_error_that_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match="x86-vnni"):
        find_target("abacus")


def test_openvino_multiplies_activations_without_zeros_the_second_signed(tmp_path: Path) -> None:
    net, placement = placed("attention", tmp_path, "openvino")
    forms = {point.value: (point.spec.format, point.spec.zero) for point in placement.points}
    scores, mixed = (node for node in net.nodes if placement.integer.get(node.name) is Role.PRODUCT)
    symmetric, unsigned = (Int(8), None), (Int(8, signed=False), Spec(Int(8, signed=False)))
    assert forms[scores.inputs[0]] == forms[scores.inputs[1]] == forms[mixed.inputs[1]] == symmetric
    assert forms[mixed.inputs[0]] == unsigned, "shares of a softmax are never negative: their zero is the code 0"
    linear = [node for node in net.nodes if placement.integer.get(node.name) is Role.LINEAR]
    assert linear
    assert all(forms[node.inputs[0]] == unsigned for node in linear)


def test_other_targets_have_one_form_for_all_activations(tmp_path: Path) -> None:
    for name in sorted(set(TARGETS) - {"openvino", "openvino-avx2"}):
        _, placement = placed("attention", tmp_path, name)
        assert {point.spec for point in placement.points} == {find_target(name).activation()}


def test_on_x86_without_vnni_other_targets_take_the_place_of_some() -> None:
    old, new = (Machine("", "x86_64", 1, has_vnni) for has_vnni in (False, True))
    taken = {name: suited(name, old) for name in TARGETS}
    assert {name for name in TARGETS if taken[name] != name} == {"x86-vnni", "openvino"}
    assert all(TARGETS[taken[name]].weight_bits == 7 for name in ("x86-vnni", "openvino"))
    assert all(suited(name, new) == name for name in TARGETS)
    with pytest.raises(ValueError, match="choose one of"):
        suited("toaster", new)


def grouped(width: int, group: int, out: int) -> Network:
    """A convolution in groups between two plain ones."""
    sketch = Sketch()
    x = sketch.conv(sketch.input(2, 3, 8, 8), width, 3, 3)
    return sketch.done(sketch.conv(sketch.conv(x, out, width, 3, group=group), 5, out))[0]


@pytest.mark.parametrize(
    ("width", "group", "out", "is_float"),
    [(32, 8, 32, True), (32, 4, 32, False), (24, 24, 24, False), (24, 24, 48, True), (12, 1, 24, False)],
)
def test_groups_of_few_channels_stay_float_where_integers_are_slower(
    width: int, group: int, out: int, is_float: bool
) -> None:
    """Depthwise convolutions have a kernel of their own; one channel that makes two has none."""
    net = as_float32(grouped(width, group, out))
    middle = net.nodes[1].name
    for target in TARGETS:
        floats = plan_network(net, NetworkRecipe(target=target)).placement.floats
        if is_float and find_target(target).engine == "ONNX Runtime":
            assert floats == {middle: f"ONNX Runtime is slower in integers with groups of {width // group} channels"}
        else:
            assert floats == {}


def test_a_network_of_small_groups_alone_is_slow_and_not_refused() -> None:
    sketch = Sketch()
    net = as_float32(sketch.done(sketch.conv(sketch.input(2, 8, 8, 8), 8, 8, 3, group=4))[0])
    assert plan_network(net, NetworkRecipe()).placement.floats == {}


def test_no_group_is_too_small_where_no_engine_multiplies_codes() -> None:
    net = as_float32(grouped(32, 8, 32))
    plan = plan_network(net, NetworkRecipe(activation_bits=4))
    assert net.nodes[1].name in {name for step in plan.weights for name in step.nodes}


def as_float32(net: Network) -> Network:
    """The same with float32 in the place of float64."""
    values = {name: replace(value, dtype="float32") for name, value in net.values.items()}
    return replace(net, values=values)


def numbered(s: Sketch, x: str) -> str:
    return s.add("Mul", s.add("Add", s.add("Relu", x), s.number(0.5)), s.number(2.0))


def gelu(s: Sketch, x: str) -> str:
    erf = s.add("Add", s.add("Erf", s.add("Div", x, s.number(2**0.5))), s.number(1.0))
    return s.add("Mul", s.add("Mul", x, erf), s.number(0.5))


def gelu_halved_first(s: Sketch, x: str) -> str:
    erf = s.add("Add", s.add("Erf", s.add("Mul", x, s.number(2**-0.5))), s.number(1.0))
    return s.add("Mul", s.add("Mul", x, s.number(0.5)), erf)


def gelu_by_tanh(s: Sketch, x: str) -> str:
    cubed = s.add("Mul", s.add("Mul", s.add("Mul", x, x), x), s.number(0.044715))
    tanh = s.add("Tanh", s.add("Mul", s.add("Add", x, cubed), s.number(0.8)))
    return s.add("Mul", s.add("Mul", x, s.add("Add", tanh, s.number(1.0))), s.number(0.5))


def quick_gelu(s: Sketch, x: str) -> str:
    return s.add("Mul", x, s.add("Sigmoid", s.add("Mul", x, s.number(1.702))))


def between(write: Any, target: str, dtype: str = "float32") -> dict[str, bool]:
    """By operator with a number, whether it runs in integers between two matrix products."""
    s = Sketch()
    made = write(s, s.add("MatMul", s.input(2, 8), s.weight(8, 8)))
    network, _ = s.done(s.add("MatMul", made, s.weight(8, 4)))
    values = {name: replace(value, dtype=dtype) for name, value in network.values.items()}
    network = replace(network, values=values)
    chosen = find_target(target)
    placement = place(network, chosen, chosen.activation())
    inner = [node for node in network.nodes if node.op in ("Add", "Mul")]
    with_numbers = [node for node in inner if any(name in network.constants for name in node.inputs)]
    assert with_numbers
    return {node.name: node.name in placement.integer for node in with_numbers}


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_numbers_run_in_integers_where_the_engine_has_them(target: str) -> None:
    assert set(between(numbered, target).values()) == {TARGETS[target].blends_numbers}


@pytest.mark.parametrize("write", [gelu, gelu_halved_first, gelu_by_tanh, quick_gelu])
def test_a_curve_in_parts_keeps_its_numbers_in_float(write: Any) -> None:
    assert not any(between(write, "x86-vnni").values())


def test_a_convolution_of_one_channel_stays_float_where_integers_are_slow() -> None:
    s = Sketch()
    x = s.input(1, 1, 1, 64)
    one = s.add("Conv", x, s.weight(1, 1, 1, 16))
    network, _ = s.done(s.add("Conv", one, s.weight(8, 1, 1, 16)))
    network = replace(network, values={n: replace(v, dtype="float32") for n, v in network.values.items()})
    for target, is_integer in (("x86-vnni", [False, True]), ("openvino", [True, True])):
        integer = plan_network(network, NetworkRecipe(target=target)).placement.integer
        assert [node.name in integer for node in network.nodes] == is_integer
