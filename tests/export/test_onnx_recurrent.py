"""LSTMs with weights in codes: what is written is what was rounded, and runs in ONNX Runtime near the float network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from bitwright.engine.network import quantize_network
from bitwright.engine.simulate import Simulation
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.export.onnx_forms import export_onnx
from bitwright.recipe.network import NetworkRecipe, fp8_static, int8, int8_dynamic, plan_network, w4a4, w8a16
from bitwright.recipe.network_cost import matrix_of, products, sizes_of
from bitwright.recipe.targets import Role
from bitwright.store.network_artifact import open_network
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.samples import read_samples

STEPS, INPUTS, HIDDEN = 7, 12, 10


def lstm_file(path: Path, directions: int = 1, more: bool = False, alone: bool = False, op: str = "LSTM") -> Path:
    """x -> MatMul -> Relu -> LSTM -> Squeeze -> MatMul, or the LSTM alone; `more`: with bias and first states."""
    rng, gates = np.random.default_rng(0), 4 if op == "LSTM" else 3
    held = {
        "w": rng.normal(0, 0.3, (directions, gates * HIDDEN, INPUTS)),
        "r": rng.normal(0, 0.3, (directions, gates * HIDDEN, HIDDEN)),
        "b": rng.normal(0, 0.3, (directions, 2 * gates * HIDDEN)),
        "h": rng.normal(0, 0.3, (directions, 1, HIDDEN)),
        "c": rng.normal(0, 0.3, (directions, 1, HIDDEN)),
        "first": rng.normal(0, 0.3, (INPUTS, INPUTS)),
        "last": rng.normal(0, 0.3, (HIDDEN, 5)),
    }
    attributes = {"hidden_size": HIDDEN, "direction": "bidirectional" if directions == 2 else "forward"}
    reads = ["x" if alone else "v", "w", "r", *(["b", "", "h", *(["c"] if op == "LSTM" else [])] if more else [])]
    nodes = [helper.make_node(op, reads, ["y" if alone else "z"], "lstm", **attributes)]
    shape = [STEPS, directions, 1, HIDDEN]
    if not alone:
        before = [helper.make_node("MatMul", ["x", "first"], ["u"]), helper.make_node("Relu", ["u"], ["v"])]
        nodes = [*before, *nodes, helper.make_node("MatMul", ["z", "last"], ["y"])]
        shape[-1] = 5
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [STEPS, 1, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(held[name].astype(np.float32), name) for name in held if name in used],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def quantized(path: Path, recipe: NetworkRecipe, folder: Path) -> tuple[OnnxSource, Path]:
    """The file quantized to `folder`, with samples that are normal numbers."""
    samples = folder.with_name("samples")
    samples.mkdir()
    rng = np.random.default_rng(1)
    for place in range(16):
        np.savez(samples / f"{place}.npz", x=rng.normal(size=(STEPS, 1, INPUTS)).astype(np.float32))
    source = OnnxSource.open(path)
    network = source.network()
    read = read_samples(samples, [network.values[name] for name in network.inputs], None)
    quantize_network(source, recipe, folder, read)
    return source, folder


def feeds() -> dict[str, Tensor]:
    return {"x": torch.randn(STEPS, 1, INPUTS, generator=torch.Generator().manual_seed(3))}


def decibels(wanted: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


@pytest.mark.parametrize("recipe", [int8(), int8_dynamic()], ids=["static", "dynamic"])
@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
def test_a_delivered_lstm_is_near_the_float_one(
    tmp_path: Path, directions: int, more: bool, recipe: NetworkRecipe
) -> None:
    source, out = quantized(lstm_file(tmp_path / "f.onnx", directions, more), recipe, tmp_path / "out")
    held = open_network(out)
    export_onnx(held, tmp_path / "q.onnx")
    model = onnx.load(tmp_path / "q.onnx")
    ops = [node.op_type for node in model.graph.node]
    assert "LSTM" not in ops and ops.count("DynamicQuantizeLSTM") == 1
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert not {"w", "r"} & stored.keys()
    for name in ("w", "r"):
        codes, scale = stored[f"{name}.codes"], stored[f"{name}.scale"]
        assert codes.dtype == np.int8 and scale.shape == (directions, 4 * HIDDEN)
        back = torch.from_numpy((codes * scale[:, None]).swapaxes(1, 2))
        float_weight = source.read([name])[name]
        assert torch.equal(back, held.weights[name].dequantize())
        assert float(((back - float_weight).abs() / torch.from_numpy(scale)[..., None]).max()) < 0.501
    wanted = OnnxRunner(source).run(feeds())["y"]
    found = OnnxRunner(model, tmp_path).run(feeds())["y"]
    simulated = Simulation.of(held).run(feeds())["y"]
    assert decibels(wanted, found) > 25
    assert decibels(simulated, found) > 25


def test_an_lstm_alone_is_enough(tmp_path: Path) -> None:
    source, out = quantized(lstm_file(tmp_path / "f.onnx", alone=True), int8(), tmp_path / "out")
    export_onnx(open_network(out), tmp_path / "q.onnx")
    found = OnnxRunner(onnx.load(tmp_path / "q.onnx"), tmp_path).run(feeds())["y"]
    assert decibels(OnnxRunner(source).run(feeds())["y"], found) > 25


def test_weights_that_two_lstms_share_are_stored_once(tmp_path: Path) -> None:
    model = onnx.load(lstm_file(tmp_path / "one.onnx", alone=True))
    model.graph.node.append(helper.make_node("LSTM", ["x", "w", "r"], ["other"], "two", hidden_size=HIDDEN))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [STEPS, 1, 1, HIDDEN]))
    onnx.save(model, tmp_path / "f.onnx")
    _, out = quantized(tmp_path / "f.onnx", int8(), tmp_path / "out")
    export_onnx(open_network(out), tmp_path / "q.onnx")
    written = onnx.load(tmp_path / "q.onnx")
    assert [node.op_type for node in written.graph.node] == ["DynamicQuantizeLSTM"] * 2
    assert len(written.graph.initializer) == 6
    found = OnnxRunner(written, tmp_path).run(feeds())
    assert torch.equal(found["y"], found["other"])


def roles(path: Path, recipe: NetworkRecipe) -> tuple[Role | None, str]:
    network = OnnxSource.open(path).network()
    placement = plan_network(network, recipe).placement
    return placement.integer.get("lstm"), placement.floats.get("lstm", "")


def test_where_it_stays_float(tmp_path: Path) -> None:
    plain = lstm_file(tmp_path / "f.onnx")
    assert roles(plain, int8()) == (Role.RECURRENT, "")
    assert roles(plain, int8_dynamic("arm")) == (Role.RECURRENT, "")
    assert roles(plain, replace(int8(), keep=("lstm",))) == (None, "asked to stay float")
    assert "no integer LSTM" in roles(plain, int8("openvino"))[1]
    assert "matrix products" in roles(plain, w8a16())[1]
    for recipe in (w4a4(), fp8_static()):
        assert "8 bits only" in roles(plain, recipe)[1]
    assert "no integer GRU" in roles(lstm_file(tmp_path / "g.onnx", op="GRU"), int8())[1]
    model = onnx.load(plain)
    node = next(node for node in model.graph.node if node.op_type == "LSTM")
    node.attribute.append(helper.make_attribute("layout", 1))
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "layout.onnx")
    assert "batches first" in roles(tmp_path / "layout.onnx", int8())[1]


def test_what_it_costs(tmp_path: Path) -> None:
    network = OnnxSource.open(lstm_file(tmp_path / "f.onnx", directions=2)).network()
    plan = plan_network(network, int8())
    shapes = {step.name: matrix_of(network, step) for step in plan.weights}
    assert shapes["w"] == (2 * 4 * HIDDEN, INPUTS) and shapes["r"] == (2 * 4 * HIDDEN, HIDDEN)
    assert products(network, sizes_of(network))["lstm"] == STEPS * 2 * 4 * HIDDEN * (INPUTS + HIDDEN)
