"""Bias correction: means come back, missing biases are made, and only corrections that help are kept."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from bitwright.graph.network import Network
from bitwright.transforms import (
    Shift,
    bias_edit,
    biased_value,
    correct_analytically,
    correct_empirically,
    expected_means,
    fold_norms,
    linear_nodes,
)
from conformance.networks import Sketch, evaluate, moved, normalized, run, transformer

State = tuple[Network, Mapping[str, Tensor]]


def coarse(network: Network, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every weight on a grid of 8 steps per tensor, rounded down so that the error has a mean."""
    found = dict(constants)
    for linear in linear_nodes(network):
        step = float(constants[linear.weight].abs().max()) / 8
        found[linear.weight] = (constants[linear.weight] / step).floor() * step
    return found


def without_biases() -> tuple[Network, dict[str, Tensor]]:
    """Conv and MatMul without bias, Gemm with one number for all, MatMul with an Add behind it."""
    s = Sketch(4)
    x = s.add("Relu", s.add("Conv", s.input(None, 3, 4, 4), s.weight(5, 3, 3, 3), pads=[1] * 4))
    x = s.add("Flatten", s.add("GlobalAveragePool", x))
    x = s.add("Relu", s.add("Gemm", x, s.weight(5, 6), s.number(0.2), beta=0.5))
    x = s.add("Relu", s.add("MatMul", x, s.weight(6, 4)))
    return s.done(s.add("Add", s.weight(3), s.add("MatMul", x, s.weight(4, 3))))


def test_a_bias_is_made_where_one_is_missing_or_not_one_per_channel() -> None:
    network, constants = without_biases()
    inputs = {"q": torch.randn(2, 3, 4, 4, dtype=torch.float64)}
    values = [linear.output for linear in linear_nodes(network)]
    before = evaluate(network.nodes, {**constants, **inputs}, values)
    for linear in list(linear_nodes(network)):
        offset = torch.randn(linear.outputs, dtype=torch.float64)
        edit = bias_edit(network, constants, linear, offset)
        after, numbers = edit.apply(network, constants)
        assert numbers.keys() == after.constants | (numbers.keys() - after.constants)
        made = after.producers[linear.output]
        shown = linear.output if made.op != "MatMul" else network.outputs[0]
        offset = offset.reshape(-1, *[1] * (2 if linear.axis == 1 else 0))
        found = evaluate(after.nodes, {**numbers, **inputs}, [shown])[shown]
        plain = evaluate(network.nodes, {**constants, **inputs}, [shown])[shown]
        torch.testing.assert_close(found, plain + offset)
        assert shown != linear.output or torch.equal(plain, before[linear.output])
        back, restored = edit.inverse().apply(after, numbers)
        assert moved(run(network, constants, inputs), run(back, restored, inputs)) < 1e-12


def test_a_bias_that_two_operators_share_is_not_changed_under_the_other() -> None:
    s = Sketch()
    x, bias = s.input(1, 3, 4, 4), s.weight(3)
    x = s.add("Conv", x, s.weight(3, 3, 1, 1), bias)
    network, constants = s.done(s.add("Conv", x, s.weight(3, 3, 1, 1), bias))
    first = next(linear_nodes(network))
    after, numbers = bias_edit(network, constants, first, torch.ones(3)).apply(network, constants)
    assert torch.equal(numbers[bias], constants[bias])
    assert [node.inputs[2] == bias for node in after.nodes] == [False, True]


class Bench:
    """Measures an original and a quantized network on the same batch, by the reference evaluator."""

    def __init__(self, network: Network, constants: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> None:
        self.inputs = inputs
        self.axis = {biased_value(network, linear): linear.axis for linear in linear_nodes(network)}
        self.original = evaluate(network.nodes, {**constants, **inputs}, list(self.axis))

    def off(self, state: State, value: str) -> Tensor:
        found = evaluate(state[0].nodes, {**state[1], **self.inputs}, [value])[value]
        return (found - self.original[value]).movedim(self.axis[value], 0).flatten(1)

    def measure(self, state: State, value: str) -> Shift | None:
        original = self.original[value].movedim(self.axis[value], 0).flatten(1)
        return Shift(self.off(state, value).mean(1), original.std(1))

    def helps(self, before: State, after: State, value: str) -> bool:
        return float(self.off(after, value).square().sum()) < float(self.off(before, value).square().sum())


@pytest.mark.parametrize("make", [normalized, transformer])
def test_measured_shifts_are_gone_after_correction_in_running_order(make: object) -> None:
    network, constants, inputs = make()  # type: ignore[operator]
    network, constants = fold_norms(network, constants).edit.apply(network, constants)
    rounded = coarse(network, constants)
    bench = Bench(network, constants, inputs)
    found = correct_empirically(network, rounded, bench.measure, bench.helps, limit=100.0)
    assert [c.value for c in found.corrections] == list(bench.axis) and all(c.kept for c in found.corrections)
    for correction in found.corrections:
        value = correction.value
        shift = bench.measure((found.network, found.constants), value)
        assert shift is not None
        assert float((shift.mean.abs() / shift.deviation.clamp_min(1e-9)).max()) < 1e-9
        assert float((bench.off((network, rounded), value).mean(1).abs() / shift.deviation).max()) > 1e-3
    again, numbers = found.edit.apply(network, rounded)
    assert moved(run(found.network, found.constants, inputs), run(again, numbers, inputs)) == 0


def test_a_correction_that_does_not_help_is_not_kept_and_is_told() -> None:
    network, constants, inputs = normalized()
    network, constants = fold_norms(network, constants).edit.apply(network, constants)
    rounded = coarse(network, constants)
    bench = Bench(network, constants, inputs)
    found = correct_empirically(network, rounded, bench.measure, lambda *_: False)
    assert found.edit.steps == () and found.network is network
    assert found.corrections and not any(c.kept for c in found.corrections)
    assert correct_empirically(network, rounded, lambda *_: None, bench.helps).corrections == ()


def test_a_shift_far_beyond_the_deviation_is_not_believed() -> None:
    shift = Shift(torch.tensor([0.5, 9.0, -0.25, torch.nan]).double(), torch.tensor([1.0, 0.0, 0.0, 1.0]).double())
    assert shift.believed(4.0).tolist() == [0.5, 0.0, -0.25, 0.0]


def test_the_analytic_correction_takes_back_what_gaussian_inputs_would_show() -> None:
    s = Sketch(11)
    x = s.norm(s.add("Conv", s.input(None, 4, 1, 1), s.weight(8, 4, 1, 1)), 8)
    x = s.add("Clip", x, s.number(0.0), s.number(1.5))
    network, constants = s.done(s.add("Conv", x, s.weight(6, 8, 1, 1)))
    conv, norm = network.nodes[0], network.nodes[1]
    constants[norm.inputs[3]] = torch.zeros(8, dtype=torch.float64)
    constants[norm.inputs[4]] = constants[conv.inputs[1]].square().sum((1, 2, 3)) - 1e-3
    folded = fold_norms(network, constants)
    network, constants = folded.edit.apply(network, constants)
    last = list(linear_nodes(network))[-1]
    rounded = coarse(network, constants)
    means = expected_means(network, constants, folded.moments)
    found = correct_analytically(network, constants, {last.weight: rounded[last.weight]}, means)
    assert [c.value for c in found.corrections] == [last.output]
    data = torch.randn(50_000, 4, 1, 1, generator=s.generator, dtype=torch.float64)
    inputs = {"q": torch.cat([data, -data])}
    bench = Bench(network, constants, inputs)
    before = {**constants, last.weight: rounded[last.weight]}
    after = {**found.constants, last.weight: rounded[last.weight]}
    wrong, left = (
        bench.off((network, before), last.output).mean(1),
        bench.off((found.network, after), last.output).mean(1),
    )
    assert float(wrong.abs().max()) > 0.2 and float(left.abs().max()) < 0.01
