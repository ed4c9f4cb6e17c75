"""Running nodes as torch functions: whole networks, parts, changes on the way, gradients, what cannot be run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnx import parser
from torch import Tensor

from bitwright.execute.interpret import InterpretError, UnsupportedOperator, can_interpret, interpret
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.network import Node
from bitwright.graph.onnx import network_of
from bitwright.store.onnx_source import OnnxSource
from networks import NETWORKS, exported, network, sample


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> OnnxSource:
    return exported(network("residual"), tmp_path_factory.mktemp("interpret"))


@pytest.fixture(scope="module")
def values(source: OnnxSource) -> dict[str, Tensor]:
    constants = source.read(source.network().constants)
    return constants | dict(zip(source.network().inputs, sample(network("residual"), 3), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_value_of_a_network_is_what_the_engine_computes(name: str, tmp_path: Path) -> None:
    module = network(name)
    source = exported(module, tmp_path)
    net = source.network()
    feeds = dict(zip(net.inputs, sample(module, 3), strict=True))
    wanted = [output for node in net.nodes for output in node.outputs]
    assert all(map(can_interpret, net.nodes))
    found = interpret(net.nodes, source.read(net.constants) | feeds, wanted)
    torch.testing.assert_close(found, OnnxRunner(source).run(feeds, wanted), rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_weights_and_are_those_of_the_module(source, values) -> None:
    module = network("residual")
    values = dict(values)
    values["conv1.weight"] = values["conv1.weight"].clone().requires_grad_()
    interpret(source.network().nodes, values, ["linear"])["linear"].square().sum().backward()
    module(values["x"]).square().sum().backward()
    torch.testing.assert_close(values["conv1.weight"].grad, module.conv1.weight.grad, rtol=1e-4, atol=1e-5)


def test_a_given_value_in_the_middle_replaces_the_nodes_before_it(source, values) -> None:
    nodes = source.network().nodes
    middle = nodes[2].outputs[0]
    whole = interpret(nodes, values, [middle, "linear"])
    rest = {name: tensor for name, tensor in values.items() if name != "x"} | {middle: whole[middle]}
    assert torch.equal(interpret(nodes, rest, ["linear"])["linear"], whole["linear"])
    zero = interpret(nodes, {**values, middle: torch.zeros_like(whole[middle])}, ["linear", middle])
    assert not torch.equal(zero["linear"], whole["linear"]) and not zero[middle].any()


def test_only_nodes_that_lead_to_what_is_wanted_run(source, values) -> None:
    nodes = source.network().nodes
    broken = (*nodes, Node("odd", "Mystery", ("linear",), ("never",)))
    assert set(interpret(broken, values, [nodes[0].outputs[0]])) == {nodes[0].outputs[0]}


def test_every_value_is_changed_once_before_anything_reads_it(source, values) -> None:
    nodes = source.network().nodes
    seen: list[str] = []

    def change(name: str, value: Tensor) -> Tensor:
        seen.append(name)
        return torch.relu(value) if name == nodes[0].outputs[0] else value

    found = interpret(nodes, values, [nodes[0].outputs[0], nodes[1].outputs[0]], change)
    plain = interpret(nodes, values, [nodes[0].outputs[0]])[nodes[0].outputs[0]]
    assert len(seen) == len(set(seen)) and set(nodes[0].inputs) < set(seen)
    assert torch.equal(found[nodes[0].outputs[0]], torch.relu(plain))
    again = interpret(nodes, {**values, nodes[0].outputs[0]: torch.relu(plain)}, [nodes[1].outputs[0]])
    assert torch.equal(found[nodes[1].outputs[0]], again[nodes[1].outputs[0]])


def test_inputs_and_constants_can_be_wanted_too(source, values) -> None:
    found = interpret(source.network().nodes, values, ["x", "head.bias", "linear"])
    assert list(found) == ["x", "head.bias", "linear"]
    assert torch.equal(found["x"], values["x"]) and torch.equal(found["head.bias"], values["head.bias"])


def test_values_are_forgotten_once_nothing_needs_them(monkeypatch) -> None:
    nodes = [Node(f"n{i}", "Relu", (f"v{i}",), (f"v{i + 1}",)) for i in range(20)]
    alive: list[int] = []

    def change(name: str, value: Tensor) -> Tensor:
        import gc

        gc.collect()
        alive.append(sum(1 for thing in gc.get_objects() if type(thing) is Tensor and thing.shape == (3, 1009)))
        return value

    interpret(nodes, {"v0": torch.ones(3, 1009)}, ["v20"], change)
    assert max(alive) <= 4  # the one given, the one read, the one made


def test_an_unknown_operator_is_named_with_its_node(source) -> None:
    node = Node("odd", "Mystery", ("x",), ("y",), domain="own")
    assert not can_interpret(node)
    with pytest.raises(UnsupportedOperator, match=r"odd: own\.Mystery") as caught:
        interpret([node], {"x": torch.zeros(1)}, ["y"])
    assert caught.value.node is node


def test_a_subgraph_is_unsupported() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> main (float[N] x, bool c) => (float[N] y)
    { y = If (c) < then_branch = yes () => (a) { a = Relu(x) }, else_branch = no () => (b) { b = Identity(x) } > }"""
    nodes = network_of(parser.parse_model(text)).nodes
    with pytest.raises(UnsupportedOperator, match="If"):
        interpret(nodes, {"x": torch.zeros(2), "c": torch.tensor(True)}, ["y"])


def test_a_missing_value_is_named_with_the_node_that_reads_it() -> None:
    node = Node("sum", "Add", ("a", "b"), ("y",))
    with pytest.raises(InterpretError, match=r"sum \(Add\) reads 'b'"):
        interpret([node], {"a": torch.zeros(1)}, ["y"])
    with pytest.raises(InterpretError, match="z: asked for"):
        interpret([node], {"a": torch.zeros(1)}, ["z"])


def test_shapes_that_do_not_fit_are_named_with_the_node() -> None:
    node = Node("product", "MatMul", ("a", "b"), ("y",))
    with pytest.raises(InterpretError, match=r"product \(MatMul\) failed on inputs of shapes \[\[2, 3\], \[2, 3\]\]"):
        interpret([node], {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}, ["y"])


def test_an_output_that_an_operator_does_not_make_is_unsupported() -> None:
    node = Node("two", "Relu", ("x",), ("y", "z"))
    with pytest.raises(UnsupportedOperator, match="2 outputs"):
        interpret([node], {"x": torch.zeros(2)}, ["y", "z"])
