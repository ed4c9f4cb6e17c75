"""A weight that is read along its rows and along its columns becomes two."""

from __future__ import annotations

import torch
from onnx import TensorProto

from bitwright.transforms import one_layout_each
from conformance.networks import Sketch, moved, run


def test_each_way_of_reading_a_weight_gets_a_constant_of_its_own() -> None:
    s = Sketch()
    weight = s.weight(6, 6)
    x = s.add("Gemm", s.input(2, 6), weight, transB=1)
    x = s.add("MatMul", s.add("Gemm", x, weight, transB=1), weight)
    network, constants = s.done(s.add("MatMul", x, weight))
    inputs = {"q": torch.randn(2, 6, generator=torch.Generator().manual_seed(0))}
    after, numbers = one_layout_each(network, constants).apply(network, constants)
    assert moved(run(network, constants, inputs), run(after, numbers, inputs)) == 0
    read = [node.inputs[1] for node in after.nodes]
    assert read[:2] == [weight, weight] and read[2] == read[3] != weight


def test_a_weight_that_is_always_read_the_same_way_stays_one() -> None:
    s = Sketch()
    weight = s.weight(6, 6)
    network, constants = s.done(s.add("MatMul", s.add("MatMul", s.input(2, 6), weight), weight))
    assert one_layout_each(network, constants).steps == ()


def test_a_table_that_multiplies_too_becomes_two() -> None:
    s = Sketch()
    table = s.weight(6, 4)
    rows = s.add("Gather", table, s.add("Cast", s.input(2), to=TensorProto.INT64))
    network, constants = s.done(s.add("Gemm", rows, table, transB=1))
    inputs = {"q": torch.tensor([5.0, 1.0])}
    after, numbers = one_layout_each(network, constants).apply(network, constants)
    assert moved(run(network, constants, inputs), run(after, numbers, inputs)) == 0
    assert after.nodes[1].inputs[0] == table != after.nodes[2].inputs[1]
