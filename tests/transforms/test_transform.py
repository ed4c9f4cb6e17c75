"""Edits as data: maps on constants and rewrites of nodes, joined and undone."""

from __future__ import annotations

import pytest
import torch

from bitwright.graph.network import Node
from bitwright.transforms import Affine, Edit, Rewrite, plus, times
from conformance.networks import Sketch, depthwise, moved, plain, run


def test_an_affine_map_is_applied_in_float64_and_rounded_once_to_the_constants_type() -> None:
    factor, offset = torch.rand(3, 1, dtype=torch.float64) + 0.1, torch.randn(3, 4, dtype=torch.float64)
    numbers = torch.randn(3, 4, dtype=torch.float16)
    found = Affine("w", factor, offset).map(numbers)
    assert found.dtype == torch.float16
    for i in range(3):
        for j in range(4):
            exact = float(numbers[i, j]) * float(factor[i, 0]) + float(offset[i, j])
            assert float(found[i, j]) == float(torch.tensor(exact, dtype=torch.float64).half())


def test_steps_run_in_order_and_the_inverse_undoes_them_in_reverse() -> None:
    edit = Edit((times("w", torch.tensor([2.0, 4.0])),)).then(Edit((plus("w", torch.tensor([1.0, -1.0])),)))
    constants = {"w": torch.tensor([[3.0, 5.0]], dtype=torch.float64), "b": torch.zeros(1)}
    after = edit.constants(constants)
    assert after["w"].tolist() == [[7.0, 19.0]]
    assert after["b"] is constants["b"] and constants["w"].tolist() == [[3.0, 5.0]]
    assert edit.inverse().constants(after)["w"].tolist() == [[3.0, 5.0]]


def test_a_rewrite_puts_nodes_in_place_and_takes_them_out_again() -> None:
    network, constants, inputs = plain()
    relu = next(node for node in network.nodes if node.op == "Relu")
    half = torch.tensor(0.5, dtype=torch.float64)
    values = {"other": network.values[relu.outputs[0]]}
    nodes = (Node("a", "Relu", relu.inputs, ("other",)), Node("b", "Mul", ("other", "half"), relu.outputs))
    edit = Edit((Rewrite((relu,), nodes, {}, {"half": half}, values),))
    after, numbers = edit.apply(network, constants)
    assert [node.op for node in after.nodes] == ["Conv", "Relu", "Mul", "Conv"] and "half" in after.constants
    assert moved(run(network, constants, inputs), run(after, numbers, inputs)) > 0.1
    back, restored = edit.inverse().apply(after, numbers)
    assert back.nodes == network.nodes and restored.keys() == constants.keys()
    assert back.constants == network.constants


def test_a_rewrite_of_another_network_is_an_error_that_names_the_values() -> None:
    relu = plain()[0].nodes[1]
    with pytest.raises(ValueError, match=relu.outputs[0]):
        Rewrite((relu,), ()).network(depthwise()[0])


def test_a_factor_of_zero_cannot_be_undone() -> None:
    with pytest.raises(AssertionError, match="w"):
        times("w", torch.zeros(2)).inverse()


def test_names_of_new_constants_do_not_collide() -> None:
    from bitwright.transforms.transform import fresh

    s = Sketch()
    network, _ = s.done(s.conv(s.input(1, 3, 4, 4), 4, 3))
    assert fresh(network, "k0") == "k0_2" and fresh(network, "free") == "free"
