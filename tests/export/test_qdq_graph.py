"""The graph with quantizers is valid, keeps the user's names, and runs in ONNX Runtime as integers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bitwright.calib import activation_params
from bitwright.engine.patches import output_axis
from bitwright.engine.prepare import without_trials
from bitwright.engine.simulate import Simulation
from bitwright.evaluate.operators import Kind, openvino_operators
from bitwright.execute import openvino_session
from bitwright.execute.integers import IntegerRunner
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.execute.openvino_session import OpenVinoSession
from bitwright.export.qdq_graph import QdqGraph
from bitwright.numerics import PER_ROW, PER_TENSOR, AbsMax, Float8, Int, Spec, quantize
from bitwright.numerics.machine import this_machine
from bitwright.recipe.network import int8
from bitwright.recipe.points import place
from bitwright.recipe.targets import Role, find_target
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.quantized import QuantizedNetwork, StoredPoint, StoredWeight, bias_codes, bias_steps
from here import ONNX_RUNTIME
from networks import exported, network, sample


def quantized(source: OnnxSource, target: str = ONNX_RUNTIME) -> QuantizedNetwork:
    """Everything to the target's integers by the extremes of one batch of random inputs."""
    net, engine = source.network(), find_target(target)
    placement = place(net, engine, engine.activation())
    draws = torch.Generator().manual_seed(1)
    shapes = {name: net.values[name].shape or () for name in net.inputs}
    feeds = {name: torch.randn([n or 4 for n in shape], generator=draws) for name, shape in shapes.items()}
    seen = OnnxRunner(source).run(feeds, tuple(point.value for point in placement.points))
    points = {}
    for point in placement.points:
        held = torch.cat([seen[p.value].reshape(-1) for p in placement.points if p.group == point.group])
        low, high = min(0.0, float(held.min())), max(0.0, float(held.max()))
        params = activation_params(low, high, point.spec)
        points[point.value] = StoredPoint(point.value, point.spec, point.group, point.readers, low, high, params)
    spec, weights = Spec(Int(engine.weight_bits), PER_ROW), {}
    for node in net.nodes:
        if placement.integer.get(node.name) is Role.LINEAR:
            tensor, axis = source.read([node.inputs[1]])[node.inputs[1]], output_axis(node)
            matrix = tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)
            codes = quantize(matrix, spec, AbsMax().fit(spec, matrix))
            weights[node.inputs[1]] = StoredWeight(node.inputs[1], axis, tuple(tensor.shape), codes, (node.name,))
    return QuantizedNetwork(source, weights, points, frozenset(placement.integer))


def written(held: QuantizedNetwork, path: Path) -> onnx.ModelProto:
    QdqGraph(held).build().write(path)
    return onnx.load(path)


@pytest.mark.parametrize("name", ["residual", "depthwise", "squeeze", "attention", "two_inputs"])
def test_it_is_valid_and_close_to_the_float_network(tmp_path: Path, name: str) -> None:
    module = network(name)
    source = exported(module, tmp_path)
    model = written(quantized(source), tmp_path / "q.onnx")
    onnx.checker.check_model(model, full_check=True)
    feeds = dict(zip(source.network().inputs, sample(module, 4), strict=True))
    wanted = OnnxRunner(source).run(feeds)
    found = OnnxRunner(model, tmp_path).run(feeds)
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        assert float((found[key] - value).norm() / value.norm()) < 0.2


def test_names_of_inputs_outputs_and_nodes_are_kept(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path)
    model = written(quantized(source), tmp_path / "q.onnx")
    before = source.model()
    assert [value.name for value in model.graph.output] == [value.name for value in before.graph.output]
    assert [value.name for value in model.graph.input] == [value.name for value in before.graph.input]
    assert {node.name for node in before.graph.node} <= {node.name for node in model.graph.node}


def test_weights_and_biases_are_stored_as_integers_and_the_floats_are_gone(tmp_path: Path) -> None:
    source = exported(network("depthwise"), tmp_path)
    held = quantized(source)
    model = written(held, tmp_path / "q.onnx")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, weight in held.weights.items():
        assert name not in stored
        assert stored[f"{name}.codes"].data_type == onnx.TensorProto.INT8
        assert tuple(stored[f"{name}.codes"].dims) == weight.shape
    assert sum(tensor.data_type == onnx.TensorProto.INT32 for tensor in stored.values()) == len(held.biased())


def test_a_weight_with_a_reader_in_floats_keeps_the_float_for_it(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path)
    held = quantized(source)
    name, weight = next(iter(held.weights.items()))
    model = source.model()
    model.graph.node.append(onnx.helper.make_node("Identity", [name], ["seen"], "look"))
    model.graph.output.append(onnx.ValueInfoProto(name="seen"))
    model.graph.output[-1].type.CopyFrom(onnx.helper.make_tensor_type_proto(1, list(weight.shape)))
    source.write(tmp_path / "two.onnx", model)
    other = OnnxSource.open(tmp_path / "two.onnx")
    changed = written(QuantizedNetwork(other, held.weights, held.points, held.integer), tmp_path / "q.onnx")
    feeds = {source.network().inputs[0]: sample(network("residual"), 2)[0]}
    seen = OnnxRunner(changed, tmp_path).run(feeds, ("seen",))["seen"]
    assert torch.equal(seen, source.read([name])[name])


def test_bias_codes_are_the_nearest_whole_steps() -> None:
    bias, steps = torch.tensor([0.5, -1.26, 3e9]), bias_steps(torch.tensor([[0.5]]), torch.tensor([0.5, 1.0, 1.0]))
    assert bias_codes(bias, steps).tolist() == [2, -3, 2**31 - 1]


def test_8_bit_floats_raise_the_opset_and_compute_what_their_codes_say(tmp_path: Path) -> None:
    source = exported(network("attention"), tmp_path)
    net, engine, spec = source.network(), find_target("tensorrt"), Spec(Float8(), PER_TENSOR)
    placement = place(net, engine, spec)
    feeds = dict(zip(net.inputs, sample(network("attention"), 4), strict=True))
    seen = OnnxRunner(source).run(feeds, tuple(point.value for point in placement.points))
    points = {}
    for point in placement.points:
        largest = max(float(seen[p.value].abs().max()) for p in placement.points if p.group == point.group)
        params = activation_params(-largest, largest, spec)
        points[point.value] = StoredPoint(point.value, spec, point.group, point.readers, -largest, largest, params)
    weights = {}
    for node in net.nodes:
        if placement.integer.get(node.name) is Role.LINEAR:
            tensor, axis = source.read([node.inputs[1]])[node.inputs[1]], output_axis(node)
            rows = Spec(Float8(), PER_ROW)
            matrix = tensor.movedim(axis, 0).contiguous()
            codes = quantize(matrix, rows, AbsMax().fit(rows, matrix))
            weights[node.inputs[1]] = StoredWeight(node.inputs[1], axis, tuple(tensor.shape), codes, (node.name,))
    held = QuantizedNetwork(source, weights, points, frozenset(placement.integer))
    model = written(held, tmp_path / "f.onnx")
    assert model.opset_import[0].version >= 19
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, weight in held.weights.items():
        assert stored[f"{name}.codes"].data_type == onnx.TensorProto.FLOAT8E4M3FN
        codes = onnx.numpy_helper.to_array(stored[f"{name}.codes"]).astype("float32")
        scale = onnx.numpy_helper.to_array(stored[f"{name}.scale"])
        shape = [1, 1]
        shape[weight.axis] = -1
        assert torch.equal(torch.from_numpy(codes * scale.reshape(shape)), weight.dequantize())
    found = OnnxRunner(model, tmp_path, exact=True).run(feeds)
    simulated = Simulation.of(held).run(feeds)
    wanted = OnnxRunner(source).run(feeds)
    for key, value in wanted.items():
        assert float((found[key] - simulated[key]).norm() / value.norm()) < 5e-3
        assert 1e-3 < float((found[key] - value).norm() / value.norm()) < 0.1


@pytest.mark.skipif(not openvino_session.is_installed(), reason="OpenVINO is not installed")
def test_openvino_runs_all_of_attention_in_integers_and_agrees(tmp_path: Path) -> None:
    module = network("attention")
    source = exported(module, tmp_path)
    model = written(quantized(source, "openvino"), tmp_path / "q.onnx")
    session = OpenVinoSession(tmp_path / "q.onnx", precision="f32")
    executed = session.executed()
    linear = [one for one in openvino_operators(executed) if one.is_linear]
    assert linear
    assert all(one.kind is Kind.INTEGER for one in linear)
    attention = [one for one in executed if one.op in ("Subgraph", "MatMul") and one.reads == ("int8",)]
    assert len(attention) == 1  # both products and the softmax between them are one operator there
    feeds = dict(zip(source.network().inputs, sample(module, 4), strict=True))
    wanted = OnnxRunner(model, tmp_path).run(feeds)
    for name, found in session.run(feeds).items():
        assert float((found - wanted[name]).norm() / wanted[name].norm()) < 0.02


@pytest.mark.parametrize("engine", ["", "ONNX Runtime"])
def test_onnx_runtime_leaves_an_operator_in_float_that_is_kept_so(tmp_path: Path, engine: str) -> None:
    """Its optimizer gives float convolutions between quantizers weights in codes, with one scale for all rows."""
    source = exported(network("residual"), tmp_path)
    held = quantized(source)
    convs = [weight for weight in held.weights.values() if len(weight.shape) == 4]
    kept = next(one for one in convs if source.network().producers.keys() & {reads(source, one.nodes[0])})
    weights = {name: weight for name, weight in held.weights.items() if name != kept.name}
    model = written(replace(held, weights=weights, engine=engine), tmp_path / "q.onnx")
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(tmp_path / "q.onnx", options, providers=["CPUExecutionProvider"])
    ops = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    floats = ops["Conv"] + ops["FusedConv"]
    assert (floats, ops["QLinearConv"]) == ((1, len(convs) - 1) if engine else (0, len(convs)))


def test_the_guard_of_a_float_operator_changes_no_number(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path)
    held = quantized(source)
    weights = dict(list(held.weights.items())[1:])
    feeds = dict(zip(source.network().inputs, sample(network("residual"), 4), strict=True))
    as_written = onnxruntime.SessionOptions()
    as_written.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = []
    for engine in ("", "ONNX Runtime"):
        written(replace(held, weights=weights, engine=engine), tmp_path / "q.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "q.onnx", as_written, providers=["CPUExecutionProvider"])
        found.append(session.run(None, {name: value.numpy() for name, value in feeds.items()}))
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def reads(source: OnnxSource, node: str) -> str:
    return next(one for one in source.network().nodes if one.name == node).inputs[0]


@pytest.mark.parametrize("target", ["x86-vnni", "x86-avx2", "arm"])
def test_hard_gates_are_sums_in_codes_that_change_no_more_than_their_rounding(tmp_path: Path, target: str) -> None:
    """Between quantizers a HardSigmoid and the sum that takes its place differ by one code at most."""
    source = without_trials(exported(network("squeeze"), tmp_path), int8(target), tmp_path)
    held = quantized(source, target)
    gates = [node for node in source.network().nodes if node.op == "HardSigmoid" and node.name in held.integer]
    assert len(gates) == 2  # the last one makes the output, which is float
    model = written(held, tmp_path / "q.onnx")
    assert Counter(node.op_type for node in model.graph.node)["HardSigmoid"] == 1
    as_gates = replace(held, integer=held.integer - {node.name for node in gates})
    other = written(as_gates, tmp_path / "gates.onnx")
    made = [held.points[node.made] for node in gates]
    feeds = {name: 3 * x for name, x in zip(source.network().inputs, sample(network("squeeze"), 4), strict=True)}
    wanted = [point.value for point in made]
    ours, theirs = (OnnxRunner(one, tmp_path, exact=True).run(feeds, wanted) for one in (model, other))
    for point in made[:1]:  # what later ones read may have been rounded otherwise before
        steps = (ours[point.value] - theirs[point.value]).abs() / point.scale
        assert float(steps.max()) < 1.01
        assert float((steps > 0.5).float().mean()) < 0.01
    assert len(torch.unique(ours[made[0].value])) > 20


def test_onnx_runtime_runs_gates_and_numbers_in_integers_as_foretold(tmp_path: Path) -> None:
    source = without_trials(exported(network("gated"), tmp_path), int8("x86-vnni"), tmp_path)
    held = quantized(source)
    floats = [node.op for node in source.network().nodes if node.name not in held.integer]
    assert floats == []
    written(held, tmp_path / "q.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "q.onnx"), options, providers=["CPUExecutionProvider"])
    ops = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert ops["QLinearConv"] == 3 and ops["QLinearAdd"] == 3 and ops["QLinearMul"] == 2
    assert set(ops) - {"Transpose"} == {"QuantizeLinear", "QLinearConv", "QLinearAdd", "QLinearMul", "DequantizeLinear"}
    feeds = dict(zip(source.network().inputs, sample(network("gated"), 4), strict=True))
    runner = IntegerRunner(tmp_path / "q.onnx", find_target("x86-vnni").arithmetic)
    assert runner.in_integers == 8
    (found,), (wanted,) = runner.run(feeds).values(), session.run(None, {k: x.numpy() for k, x in feeds.items()})
    if this_machine().has_vnni:
        assert np.array_equal(found.numpy(), wanted)
