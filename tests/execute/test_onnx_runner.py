"""Running networks in ONNX Runtime: any value, parts, replaced constants, bad feeds."""

from __future__ import annotations

import time
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import parser
from torch import Tensor

from bitwright.execute.onnx_runner import KEPT_SESSIONS, OnnxRunner, RunError, session_options
from bitwright.store.onnx_source import OnnxSource
from networks import exported, network, sample


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> OnnxSource:
    return exported(network("residual"), tmp_path_factory.mktemp("runner"))


@pytest.fixture(scope="module")
def feeds(source: OnnxSource) -> dict[str, Tensor]:
    return dict(zip(source.network().inputs, sample(network("residual"), 3), strict=True))


def inner(source: OnnxSource) -> list[str]:
    return [name for node in source.network().nodes for name in node.outputs]


def test_every_value_can_be_had_and_is_what_torch_computes(source, feeds) -> None:
    module = network("residual")
    values = OnnxRunner(source).run(feeds, inner(source))
    assert list(values) == inner(source)
    with torch.no_grad():
        stem = module.stem(feeds["x"])
    torch.testing.assert_close(values[source.network().nodes[0].outputs[0]], stem)


def test_a_value_has_the_same_bits_whatever_else_is_asked_for(source, feeds) -> None:
    runner = OnnxRunner(source)
    together = runner.run(feeds, inner(source))
    for name in inner(source)[:-1]:
        assert torch.equal(runner.run(feeds, [name])[name], together[name])


def test_an_input_can_be_asked_for_and_comes_back(source, feeds) -> None:
    values = OnnxRunner(source).run(feeds, ["x", inner(source)[0]])
    assert values["x"] is feeds["x"] and list(values) == ["x", inner(source)[0]]
    assert OnnxRunner(source).run(feeds, ["x"])["x"] is feeds["x"]


def test_a_network_runs_part_by_part(source, feeds) -> None:
    runner = OnnxRunner(source, exact=True)
    whole = runner.run(feeds, [inner(source)[2], *source.network().outputs])
    middle = inner(source)[2]  # after the stem
    part = runner.run({middle: whole[middle]})
    assert torch.equal(part[source.network().outputs[0]], whole[source.network().outputs[0]])


def test_all_optimisations_change_the_output_by_rounding_alone(source, feeds) -> None:
    fast, exact = (OnnxRunner(source, exact=exact).run(feeds) for exact in (False, True))
    torch.testing.assert_close(fast, exact, rtol=1e-4, atol=1e-5)


def test_constants_are_replaced_and_the_first_runner_keeps_its_own(source, feeds) -> None:
    runner, module = OnnxRunner(source), network("residual", seed=5)
    before = runner.run(feeds)
    state = {name: tensor for name, tensor in module.state_dict().items() if name in source.network().constants}
    found = runner.with_constants(state).run(feeds)[source.network().outputs[0]]
    with torch.no_grad():
        torch.testing.assert_close(found, module(feeds["x"]), rtol=1e-4, atol=1e-5)
    assert torch.equal(runner.run(feeds)[source.network().outputs[0]], before[source.network().outputs[0]])


def test_replacements_add_up(source, feeds) -> None:
    runner = OnnxRunner(source)
    weight, bias = torch.zeros(5, 8), torch.arange(5.0)
    both = runner.with_constants({"head.weight": weight}).with_constants({"head.bias": bias})
    assert torch.equal(both.run(feeds)[source.network().outputs[0]], bias.expand(3, 5))


def test_external_data_are_found_and_replaced(source, feeds, tmp_path: Path) -> None:
    onnx.save(source.model(), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    runner, expected = OnnxRunner(OnnxSource.open(tmp_path / "m.onnx")), OnnxRunner(source)
    assert torch.equal(runner.run(feeds)["linear"], expected.run(feeds)["linear"])
    new = {"conv1.weight": torch.ones(8, 8, 3, 3)}
    found, wanted = (one.with_constants(new).run(feeds)["linear"] for one in (runner, expected))
    assert torch.equal(found, wanted)


def test_a_model_without_a_source_runs_and_its_constant_nodes_can_be_replaced() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> main (float[N, 2] x) => (float[N, 2] y)
        { c = Constant <value_floats: floats = [1.0, 2.0]> ()  y = Add(x, c) }"""
    )
    runner = OnnxRunner(model)
    assert runner.run({"x": torch.zeros(1, 2)})["y"].tolist() == [[1, 2]]
    assert runner.with_constants({"c": torch.tensor([5.0, 6.0])}).run({"x": torch.zeros(1, 2)})["y"].tolist() == [
        [5, 6]
    ]
    assert runner.run({"x": torch.zeros(1, 2)})["y"].tolist() == [[1, 2]]


BRANCHES = """<ir_version: 8, opset_import: ["" : 17]>
main (float[N, 3] x, bool c) => (float[N, 3] y)
<float[3] w = {1, 2, 3}>
{
    doubled = Add(x, x)
    [branch] y = If (c) <
        then_branch = yes () => (a) { inner = Mul(doubled, w)  a = Relu(inner) },
        else_branch = no () => (b) { b = Identity(x) }
    >
}"""


def test_subgraphs_run_with_what_they_capture() -> None:
    runner = OnnxRunner(parser.parse_model(BRANCHES))
    x = torch.tensor([[1.0, -1.0, 2.0]])
    assert runner.run({"x": x, "c": torch.tensor(True)}, ["y", "doubled"])["y"].tolist() == [[2, 0, 12]]
    assert runner.run({"x": x, "c": torch.tensor(False)})["y"].tolist() == x.tolist()
    replaced = runner.with_constants({"w": torch.zeros(3)})
    assert replaced.run({"x": x, "c": torch.tensor(True)})["y"].tolist() == [[0, 0, 0]]


def test_a_value_inside_a_subgraph_is_refused_with_the_node_it_belongs_to() -> None:
    runner = OnnxRunner(parser.parse_model(BRANCHES))
    with pytest.raises(RunError, match="inner: a value inside the subgraph of branch"):
        runner.run({"x": torch.zeros(1, 3), "c": torch.tensor(True)}, ["inner"])


def test_sizes_that_the_network_computes_can_be_fed_to_what_resizes() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        graph (float[n, 1, 2, 2] x, float[n, 1, h, w] like) => (float[n, 1, h, w] y) {
            sizes = Shape(like)
            y = Resize(x, , , sizes)
        }"""
    )
    feeds = {"x": torch.ones(2, 1, 2, 2), "sizes": torch.tensor([2, 1, 4, 6])}
    assert OnnxRunner(model).run(feeds, ["y"])["y"].shape == (2, 1, 4, 6)


def test_few_sessions_are_kept(source, feeds) -> None:
    runner = OnnxRunner(source)
    for name in inner(source):
        runner.run(feeds, [name])
    assert len(runner._sessions) == KEPT_SESSIONS


@pytest.mark.parametrize(
    ("given", "wanted", "message"),
    [
        ({}, None, "x: not fed"),
        (
            {"x": torch.zeros(2, 3, 12, 12, dtype=torch.float64)},
            None,
            "given as float64, but the network holds float32",
        ),
        ({"x": torch.zeros(2, 4, 12, 12)}, None, r"shape \[2, 4, 12, 12\], but the network takes \[any, 3, 12, 12\]"),
        ({"x": torch.zeros(3, 12, 12)}, None, "takes"),
        ({"x": torch.zeros(0, 3, 12, 12)}, None, "batch is empty"),
        ({"y": torch.zeros(1)}, None, "y: not a value of the network.*its inputs are"),
        ({"x": torch.zeros(2, 3, 12, 12)}, ["nothing"], "nothing: the network has no such value"),
        ({"x": torch.zeros(2, 3, 12, 12)}, ["head.weight"], "head.weight: a constant"),
    ],
)
def test_what_cannot_be_run_is_an_error_that_names_the_value(source, given, wanted, message) -> None:
    with pytest.raises(RunError, match=message):
        OnnxRunner(source).run(given, wanted)


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"x": torch.zeros(1)}, "x: not a constant"),
        ({"head.bias": torch.zeros(4)}, r"head.bias: given with shape \[4\]"),
        ({"head.bias": torch.zeros(5, dtype=torch.int8)}, "head.bias: given as int8"),
    ],
)
def test_a_constant_is_replaced_only_by_one_like_it(source, constants, message) -> None:
    with pytest.raises(RunError, match=message):
        OnnxRunner(source).with_constants(constants)


def test_an_operator_that_the_engine_lacks_is_an_error() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        main (float[N, 2] x) => (float[N, 2] y) { y = own.Mystery(x) }"""
    )
    with pytest.raises(RunError, match="cannot open the network.*Mystery"):
        OnnxRunner(model).run({"x": torch.zeros(1, 2)})


def test_what_is_no_tensor_of_numbers_is_not_handed_out() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        main (float[N] x) => (seq(float[N]) y) { y = SequenceConstruct(x, x) }"""
    )
    with pytest.raises(RunError, match="y: not a tensor of numbers"):
        OnnxRunner(model).run({"x": torch.zeros(2)})


def test_a_session_of_several_threads_takes_no_processor_time_between_its_runs() -> None:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[512, 512] x) => (float[512, 512] y){ y = MatMul (x, x) }'
    )
    given, options = {"x": torch.randn(512, 512).numpy()}, session_options(2)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    spent = 0.0
    for _ in range(10):  # they would wait for some 30 ms and more after each
        session.run(None, given)
        begun = time.process_time()
        time.sleep(0.05)
        spent += time.process_time() - begun
    assert spent < 0.1
