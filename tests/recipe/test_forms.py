"""Products without static activations: which ones, what they share, and why the others stay float."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.numerics import Int, per_group
from bitwright.recipe.forms import GROUPS, Activations, columns_of, group_for
from bitwright.recipe.network import NetworkRecipe, find_network_recipe, plan_network
from bitwright.recipe.targets import Role
from networks import exported, network


def test_every_node_is_a_product_or_has_a_reason(tmp_path: Path) -> None:
    for name in ("attention", "residual"):
        net = exported(network(name), tmp_path, name).network()
        for recipe in ("int8_dynamic", "w8a16"):
            placement = plan_network(net, find_network_recipe(recipe, "x86-vnni")).placement
            assert placement.integer.keys() | placement.floats.keys() == {node.name for node in net.nodes}
            assert all(placement.floats.values())
            assert set(placement.integer.values()) == {Role.LINEAR}


def test_dynamic_points_are_shared_by_all_products_that_read_the_value(tmp_path: Path) -> None:
    net = exported(network("attention"), tmp_path).network()
    points = plan_network(net, find_network_recipe("int8_dynamic", "x86-vnni")).placement.points
    assert all(point.dynamic for point in points)
    assert sorted(len(point.readers or ()) for point in points) == [1, 1, 1, 3]


def test_weight_only_has_no_points(tmp_path: Path) -> None:
    net = exported(network("attention"), tmp_path).network()
    assert plan_network(net, find_network_recipe("w8a16", "x86-vnni")).placement.points == ()


def test_a_group_is_the_largest_that_divides_the_row(tmp_path: Path) -> None:
    assert [group_for(columns, 128) for columns in (384, 1536, 96, 80, 24, 300)] == [128, 128, 32, 16, None, None]
    net = exported(network("attention"), tmp_path).network()
    steps = plan_network(net, find_network_recipe("w4a16", "x86-vnni")).weights
    tiles = {step.spec.tile for step in steps}
    assert tiles == {per_group(16), per_group(32)}
    assert all(step.spec.format == Int(4, signed=False) and step.spec.zero is not None for step in steps)


def test_rows_that_no_group_divides_stay_float(tmp_path: Path) -> None:
    source = exported(network("two_inputs"), tmp_path)
    net = source.network()
    linear = next(node for node in net.nodes if node.op == "Gemm")
    assert columns_of(net, linear) == 4
    with pytest.raises(ValueError, match="no multiple of 16"):
        plan_network(net, find_network_recipe("w4a16", "x86-vnni"))


def test_columns_are_what_one_output_reads(tmp_path: Path) -> None:
    net = exported(network("depthwise"), tmp_path).network()
    weights = {node.inputs[1]: node for node in net.nodes if node.op == "Conv"}
    for name, node in weights.items():
        shape = net.values[name].shape
        assert shape is not None
        assert columns_of(net, node) == (shape[1] or 0) * (shape[2] or 0) * (shape[3] or 0)


def test_recipes_that_no_engine_could_run_are_refused() -> None:
    with pytest.raises(ValueError, match="leave out group"):
        NetworkRecipe(activations=Activations.DYNAMIC, group=128)
    with pytest.raises(ValueError, match="leave out group"):
        NetworkRecipe(has_zero=True)
    with pytest.raises(ValueError, match=", ".join(map(str, GROUPS))):
        NetworkRecipe(activations=Activations.FLOAT, group=48)
    with pytest.raises(ValueError, match="int8"):
        NetworkRecipe(activations=Activations.DYNAMIC, target="tensorrt")
