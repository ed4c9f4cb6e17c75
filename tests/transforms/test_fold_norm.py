"""BatchNormalization folding on networks that onnx's reference evaluator runs."""

from __future__ import annotations

import pytest
import torch

from bitwright.transforms import fold_norms
from conformance.networks import Sketch, moved, normalized, run


def test_folding_changes_nothing_and_leaves_only_what_follows_no_linear_operator() -> None:
    network, constants, inputs = normalized()
    folded = fold_norms(network, constants)
    after, numbers = folded.edit.apply(network, constants)
    assert moved(run(network, constants, inputs), run(after, numbers, inputs)) < 1e-12
    left = [node for node in after.nodes if node.op == "BatchNormalization"]
    assert [node.outputs[0] for node in left] == list(folded.left) and len(left) == 1
    assert "Relu" in next(iter(folded.left.values()))
    assert len(folded.moments) == 6
    assert after.outputs == network.outputs and numbers.keys() == after.constants


def test_unfolding_gives_the_network_back() -> None:
    network, constants, inputs = normalized()
    edit = fold_norms(network, constants).edit
    after, numbers = edit.then(edit.inverse()).apply(network, constants)
    assert set(after.constants) == set(network.constants)
    assert sorted(map(str, after.nodes)) == sorted(map(str, network.nodes))
    for name, tensor in constants.items():
        torch.testing.assert_close(numbers[name], tensor, rtol=1e-12, atol=1e-12)
    assert moved(run(network, constants, inputs), run(after, numbers, inputs)) < 1e-12


def test_moments_are_beta_and_the_absolute_gamma_of_the_value_that_keeps_its_name() -> None:
    network, constants, _ = normalized()
    for node in network.nodes:
        if node.op == "BatchNormalization" and node.outputs[0] in (folded := fold_norms(network, constants)).moments:
            found = folded.moments[node.outputs[0]]
            torch.testing.assert_close(found.mean, constants[node.inputs[2]])
            torch.testing.assert_close(found.deviation, constants[node.inputs[1]].abs())
            assert bool((found.deviation > 0).all())


def test_a_value_that_others_read_before_it_is_normalized_keeps_its_normalization() -> None:
    s = Sketch()
    x = s.conv(s.input(1, 3, 4, 4), 4, 3)
    network, constants = s.done(s.add("Add", s.norm(x, 4), x))
    folded = fold_norms(network, constants)
    assert folded.edit.steps == () and "others" in next(iter(folded.left.values()))


def test_a_weight_that_two_operators_share_keeps_its_normalization() -> None:
    s = Sketch()
    x, weight = s.input(1, 3, 4, 4), s.weight(3, 3, 1, 1)
    x = s.norm(s.add("Conv", x, weight), 3)
    network, constants = s.done(s.add("Conv", x, weight))
    folded = fold_norms(network, constants)
    assert folded.edit.steps == () and "several places" in next(iter(folded.left.values()))


def test_a_broken_variance_is_left_and_said() -> None:
    s = Sketch()
    network, constants = s.done(s.norm(s.conv(s.input(1, 3, 4, 4), 4, 3), 4))
    variance = network.nodes[1].inputs[4]
    constants[variance] = -torch.ones(4, dtype=torch.float64)
    assert "finite" in next(iter(fold_norms(network, constants).left.values()))


@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (1, 4, 1, 1)])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("is_first", [False, True])
def test_sums_and_products_with_constants_are_lines_too(op: str, shape: tuple[int, ...], is_first: bool) -> None:
    s = Sketch()
    x, numbers = s.conv(s.input(2, 3, 5, 5), 4, 3, 3), s.constant(torch.rand(shape, dtype=torch.float64) + 0.5)
    network, constants = s.done(s.add(op, *((numbers, x) if is_first else (x, numbers))))
    after, held = fold_norms(network, constants).edit.apply(network, constants)
    stays = op == "Div" and is_first
    assert [node.op for node in after.nodes] == (["Conv", "Div"] if stays else ["Conv"])
    feeds = {"q": torch.randn(2, 3, 5, 5, dtype=torch.float64)}
    assert moved(run(network, constants, feeds), run(after, held, feeds)) < 1e-12


def test_a_line_behind_a_norm_moves_what_the_norm_knew() -> None:
    s = Sketch()
    norm = s.norm(s.conv(s.input(1, 3, 4, 4), 4, 3), 4)
    made = s.add("Add", s.add("Mul", norm, s.number(-2.0)), s.number(0.25))
    network, constants = s.done(made)
    folded = fold_norms(network, constants)
    assert list(folded.moments) == [made]
    gamma, beta = (constants[name] for name in network.nodes[1].inputs[1:3])
    torch.testing.assert_close(folded.moments[made].mean, 0.25 - 2 * beta)
    torch.testing.assert_close(folded.moments[made].deviation, 2 * gamma.abs())


def test_a_matrix_product_takes_a_factor_behind_its_bias_and_keeps_the_bias() -> None:
    s = Sketch()
    x = s.add("Add", s.add("MatMul", s.input(2, 5, 3), s.weight(3, 4)), s.weight(4))
    network, constants = s.done(s.add("Mul", x, s.weight(4)), s.add("Mul", x, s.number(2.0)))
    assert fold_norms(network, constants).edit.steps == ()  # others read it
    s = Sketch()
    x = s.add("Add", s.add("MatMul", s.input(2, 5, 3), s.weight(3, 4)), s.weight(4))
    network, constants = s.done(s.add("Mul", x, s.weight(4)))
    after, held = fold_norms(network, constants).edit.apply(network, constants)
    assert [node.op for node in after.nodes] == ["MatMul", "Add"]
    feeds = {"q": torch.randn(2, 5, 3, dtype=torch.float64)}
    assert moved(run(network, constants, feeds), run(after, held, feeds)) < 1e-12


@pytest.mark.parametrize("numbers", [torch.randn(1, 1, 5, 5), torch.zeros(1), torch.tensor(float("inf"))])
def test_a_constant_that_is_no_line_or_takes_all_away_stays(numbers: torch.Tensor) -> None:
    s = Sketch()
    x = s.conv(s.input(2, 3, 5, 5), 4, 3)
    network, constants = s.done(s.add("Mul", x, s.constant(numbers.double())))
    assert fold_norms(network, constants).edit.steps == ()


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_a_constant_that_makes_more_channels_of_one_stays(op: str) -> None:
    s = Sketch()
    x = s.conv(s.input(2, 3, 5, 5), 1, 3)
    network, constants = s.done(s.add(op, x, s.weight(4, 1, 1)))
    assert fold_norms(network, constants).edit.steps == ()
    s = Sketch()
    network, constants = s.done(s.add(op, s.add("MatMul", s.input(2, 3), s.weight(3, 1)), s.weight(5)))
    assert fold_norms(network, constants).edit.steps == ()
