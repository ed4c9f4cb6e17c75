"""Dynamic files: against integers computed here, one quantizer for each value, names kept, Gemm not left out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from bitwright.engine.network import quantize_network
from bitwright.execute.onnx_profile import executed
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.export.exporter import ExportError
from bitwright.export.onnx_dynamic import export_dynamic
from bitwright.recipe.network import NetworkRecipe, find_network_recipe
from bitwright.store.network_artifact import read_manifest
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.quantized import QuantizedNetwork
from bitwright.store.sample_set import Samples, Stacking
from here import ONNX_RUNTIME
from networks import exported, network, sample


def quantized(source: OnnxSource, folder: Path, recipe: NetworkRecipe | None = None) -> QuantizedNetwork:
    net = source.network()
    draws = torch.Generator().manual_seed(2)
    held = {name: torch.randn((16, *(net.values[name].shape or ())[1:]), generator=draws) for name in net.inputs}

    def read(index: int) -> tuple[str, dict[str, Tensor]]:
        return str(index), {key: value[index : index + 1] for key, value in held.items()}

    samples = Samples(16, "random", Stacking(True, None), read)
    return quantize_network(source, recipe or find_network_recipe("int8_dynamic", ONNX_RUNTIME), folder, samples)


def two_gemms(folder: Path) -> OnnxSource:
    """What torch writes for two linear layers that read one value, one Gemm of each orientation, and a bare MatMul."""
    draws = np.random.default_rng(0)
    stored = {
        "a": draws.standard_normal((24, 16)),
        "b": draws.standard_normal((16, 24)),
        "c": draws.standard_normal((24, 8)),
        "bias": draws.standard_normal(24),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "a", "bias"], ["p"], "first", transB=1),
            helper.make_node("Gemm", ["x", "b", "bias"], ["q"], "second"),
            helper.make_node("Add", ["p", "q"], ["r"], "sum"),
            helper.make_node("MatMul", ["r", "c"], ["y"], "third"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key="author", value="somebody")
    onnx.save(model, folder / "gemms.onnx")
    return OnnxSource.open(folder / "gemms.onnx")


def product(x: np.ndarray, codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """x quantized as DynamicQuantizeLinear is defined, times codes [in, out], in 64-bit integers."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    step = np.float32((high - low) / 255)
    zero = int(np.clip(np.rint(-low / step), 0, 255))
    quantized = np.clip(np.rint(x / step) + zero, 0, 255).astype(np.int64) - zero
    return (quantized @ codes.astype(np.int64)).astype(np.float32) * (step * scale)


def test_it_computes_what_integers_say(tmp_path: Path) -> None:
    held = quantized(two_gemms(tmp_path), tmp_path / "out")
    export_dynamic(held, tmp_path / "d.onnx")
    x = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)
    found = OnnxRunner(onnx.load(tmp_path / "d.onnx"), tmp_path, exact=True).run({"x": torch.from_numpy(x)})["y"]
    codes = {name: weight.shaped(weight.qtensor.codes).numpy() for name, weight in held.weights.items()}
    scales = {name: weight.scale.numpy() for name, weight in held.weights.items()}
    constants = held.source.read(held.source.network().constants)
    graph = {node.name: node for node in held.source.network().nodes}
    first = product(x, codes["a"].T, scales["a"]) + constants[graph["first"].inputs[2]].numpy()
    second = product(x, codes["b"], scales["b"]) + constants[graph["second"].inputs[2]].numpy()
    wanted = product(first + second, codes["c"], scales["c"])
    assert np.allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_the_file_is_valid_keeps_names_and_has_one_quantizer_for_each_value(tmp_path: Path) -> None:
    source = two_gemms(tmp_path)
    export_dynamic(quantized(source, tmp_path / "out"), tmp_path / "d.onnx")
    model = onnx.load(tmp_path / "d.onnx")
    onnx.checker.check_model(model, full_check=True)
    ops = Counter(node.op_type for node in model.graph.node)
    assert (ops["DynamicQuantizeLinear"], ops["MatMulInteger"], ops["Gemm"], ops["MatMul"]) == (2, 3, 0, 0)
    assert {"first", "second", "third", "sum"} <= {node.name for node in model.graph.node}
    assert [(one.key, one.value) for one in model.metadata_props] == [("author", "somebody")]
    assert model.opset_import == source.model().opset_import
    assert not {"a", "b", "c"} & {tensor.name for tensor in model.graph.initializer}


@pytest.mark.parametrize("name", ["attention", "residual"])
def test_networks_stay_close_and_onnx_runtime_fuses_every_product(tmp_path: Path, name: str) -> None:
    module = network(name)
    source = exported(module, tmp_path)
    held = quantized(source, tmp_path / "out")
    export_dynamic(held, tmp_path / "d.onnx")
    feeds = dict(zip(source.network().inputs, sample(module, 4), strict=True))
    wanted, found = OnnxRunner(source).run(feeds), OnnxRunner(onnx.load(tmp_path / "d.onnx"), tmp_path).run(feeds)
    for key, value in wanted.items():
        assert float((found[key] - value).norm() / value.norm()) < 0.03
    ops = Counter(node.op for node in executed(tmp_path / "d.onnx", feeds))
    fused = ops["MatMulIntegerToFloat"] + ops["DynamicQuantizeMatMul"]
    assert fused == len([node for weight in held.weights.values() for node in weight.nodes])
    assert ops["MatMulInteger"] == 0


def test_convolutions_stay_float_with_a_reason(tmp_path: Path) -> None:
    held = quantized(exported(network("residual"), tmp_path), tmp_path / "out")
    assert {held.weights[name].shape for name in held.weights} == {(5, 8)}
    assert len(held.points) == 1


def test_a_weight_of_static_8_bit_convolutions_is_refused(tmp_path: Path) -> None:
    held = quantized(exported(network("residual"), tmp_path), tmp_path / "out", NetworkRecipe())
    with pytest.raises(ExportError, match="int8_dynamic"):
        export_dynamic(held, tmp_path / "d.onnx")


def test_the_reduced_range_is_used_where_the_target_has_no_vnni(tmp_path: Path) -> None:
    recipe = find_network_recipe("int8_dynamic", "x86-avx2")
    held = quantized(two_gemms(tmp_path), tmp_path / "out", recipe)
    assert max(int(weight.qtensor.codes.abs().max()) for weight in held.weights.values()) <= 64


def test_a_target_without_dynamic_activations_is_refused() -> None:
    with pytest.raises(ValueError, match="tensorrt takes static activations"):
        find_network_recipe("int8_dynamic", "tensorrt")


def test_without_samples_weights_are_rounded_to_nearest_and_nothing_else_changes(tmp_path: Path) -> None:
    source = two_gemms(tmp_path)
    held = quantize_network(source, find_network_recipe("int8_dynamic", ONNX_RUNTIME), tmp_path / "none", None)
    for name, weight in held.weights.items():
        float_weight = source.read([name])[name].movedim(weight.axis, 0)
        steps = float_weight.abs().amax(1, keepdim=True) / weight.qtensor.spec.format.high
        assert bool(((weight.qtensor.dequantize() - float_weight).abs() <= steps * 0.51).all())
    export_dynamic(held, tmp_path / "d.onnx")
    manifest = read_manifest(tmp_path / "none")
    assert manifest["samples"]["count"] == 0
    assert {note for entry in manifest["weights"] for note in entry["notes"]} == {
        "no samples were given: rounded to nearest"
    }


def test_static_activations_without_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int8_dynamic"):
        quantize_network(two_gemms(tmp_path), NetworkRecipe(), tmp_path / "out", None)
