"""Verifying delivered files: what runs, agrees, is in integers, and what is said of files that fall short."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor

from bitwright.evaluate.delivery import Delivery, verify
from bitwright.evaluate.error import EvaluateError
from bitwright.execute import openvino_session
from bitwright.execute.onnx_runner import RunError
from evaluate.deliveries import QUICK, dynamic, edited, float_file, four_bit, static

ENGINES = ["ONNX Runtime", *(["OpenVINO"] if openvino_session.is_installed() else [])]
Made = tuple[Path, Path, list[dict[str, Tensor]]]


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Made:
    path, feeds = float_file("residual", tmp_path_factory.mktemp("delivery"))
    return static(path, feeds), path, feeds


@pytest.fixture(scope="module")
def delivery(residual: Made) -> Delivery:
    return verify(*residual, timing=QUICK)


def outputs(
    path: Path, feeds: dict[str, Tensor], options: onnxruntime.SessionOptions | None = None
) -> dict[str, Tensor]:
    """What ONNX Runtime makes of a batch, by plain calls."""
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    made = session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
    return {info.name: torch.from_numpy(array) for info, array in zip(session.get_outputs(), made, strict=True)}


def decibels(references: list[Tensor], found: list[Tensor]) -> float:
    exact, made = (np.concatenate([one.double().numpy().ravel() for one in many]) for many in (references, found))
    return float(10 * np.log10(np.mean(exact**2) / np.mean((exact - made) ** 2)))


def scaled(factor: float, name: str):
    """An edit that multiplies one stored tensor."""

    def edit(model: ModelProto) -> None:
        (tensor,) = [one for one in model.graph.initializer if one.name == name]
        stored = numpy_helper.to_array(tensor)
        array = (stored * factor).astype(stored.dtype)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return edit


def test_a_sound_file_has_no_problems_and_runs_in_every_engine(delivery: Delivery) -> None:
    assert delivery.checker == "" and delivery.problems == () and delivery.is_sound
    assert [trial.engine for trial in delivery.trials] == ENGINES


def test_the_distance_to_the_original_is_over_all_batches_as_numpy_computes_it(
    delivery: Delivery, residual: Made
) -> None:
    quantized, original, feeds = residual
    both = [[outputs(path, one)["linear"] for one in feeds] for path in (original, quantized)]
    (found,) = delivery.trials[0].outputs
    assert found.output == "linear" and found.simulation_db is None
    assert found.original_db == pytest.approx(decibels(*both), abs=1e-6)


def test_the_distance_to_the_simulation_is_its_own_and_identical_is_300(residual: Made) -> None:
    quantized, original, feeds = residual
    made = [outputs(quantized, one) for one in feeds]
    (same,) = verify(quantized, original, feeds, made, timing=QUICK).trials[0].outputs
    assert same.simulation_db == 300
    noisy = [{name: tensor + 0.01 * torch.randn(tensor.shape) for name, tensor in one.items()} for one in made]
    (near,) = verify(quantized, original, feeds, noisy, timing=QUICK).trials[0].outputs
    expected = decibels([one["linear"] for one in noisy], [one["linear"] for one in made])
    assert near.simulation_db == pytest.approx(expected, abs=1e-6) and near.original_db == same.original_db
    foretold = decibels([outputs(original, one)["linear"] for one in feeds], [one["linear"] for one in noisy])
    assert near.foretold_db == pytest.approx(foretold, abs=1e-6)


def test_a_simulation_that_does_not_foretell_the_engine_is_a_warning(residual: Made) -> None:
    quantized, original, feeds = residual
    made = [outputs(quantized, one) for one in feeds]
    floats = [outputs(original, one) for one in feeds]
    text = "the simulation does not foretell this engine"
    assert any(text in one for one in verify(quantized, original, feeds, floats, timing=QUICK).warnings)
    good = verify(quantized, original, feeds, made, timing=QUICK).warnings
    assert not any(text in one for one in good if one.startswith("ONNX Runtime"))


def test_every_linear_operator_of_a_fused_file_is_counted_in_integers(delivery: Delivery) -> None:
    counts = delivery.trials[0].counts()
    assert counts["integer"]["QLinearConv"] == 3 and counts["integer"]["QGemm"] == 1
    assert not {"Conv", "Gemm", "MatMul"} & counts["float"].keys()
    assert sum(sum(row.values()) for row in counts.values()) == len(delivery.trials[0].operators)


def test_a_dynamic_file_runs_in_integers_and_its_rescaling_is_not_called_float(residual: Made) -> None:
    _, original, feeds = residual
    trial = verify(dynamic(original), original, feeds, timing=QUICK).trials[0]
    counts = trial.counts()
    assert counts["integer"] == {"ConvInteger": 3, "DynamicQuantizeMatMul": 1}
    assert "Cast" not in counts["float"] and "Mul" not in counts["float"] and counts["quantizer"]["Mul"] == 6
    reasons = {one.op: one.reason for one in trial.operators if one.reason}
    assert reasons["Relu"] == "nothing that it reads is quantized"


def test_a_four_bit_file_is_verified_with_its_activations_exact_and_as_the_engine_rounds_them(tmp_path: Path) -> None:
    path, feeds = float_file("attention", tmp_path)
    quantized = four_bit(path)
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # dequantizes to float32
    expected = [outputs(quantized, one, plain) for one in feeds]
    found = verify(quantized, path, feeds, expected, timing=QUICK)
    trial = found.trials[0]
    assert trial.counts()["integer"] == {"MatMulNBits": 6}
    assert all(other.counts()["integer"] == {"FullyConnected": 6} for other in found.trials[1:])
    assert trial.exact[0].simulation_db > 100 and trial.outputs[0].simulation_db < 60
    assert not any("does not foretell" in text for text in found.warnings if text.startswith("ONNX Runtime"))


def test_the_latency_is_of_the_batch_and_of_one_sample_against_the_float_file(delivery: Delivery) -> None:
    timed = delivery.trials[0].latencies
    assert [(one.against, one.batch) for one in timed] == [("fp32", "4x3x12x12"), ("fp32", "1x3x12x12")]
    assert all(one.pairs == 3 and 0 < one.low <= one.high and one.milliseconds > 0 for one in timed)


def test_a_fixed_batch_is_timed_alone(tmp_path: Path) -> None:
    path, feeds = float_file("residual", tmp_path)

    def fix(model: ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4

    fixed = edited(path, "fixed.onnx", fix)
    timed = verify(static(fixed, feeds), fixed, feeds, timing=QUICK).trials[0].latencies
    assert [one.batch for one in timed] == ["4x3x12x12"]


def test_the_result_is_plain_json_without_nan(delivery: Delivery) -> None:
    plain = json.loads(json.dumps(delivery.to_plain(), allow_nan=False))
    assert plain["trials"][0]["counts"]["integer"]["QGemm"] == 1
    assert {"kind": "integer", "op": "QGemm"}.items() <= plain["trials"][0]["operators"][-2].items()


def test_an_invalid_file_is_named_by_the_checker_and_is_not_sound(residual: Made) -> None:
    quantized, original, feeds = residual

    def spoil(model: ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Conv")
        node.attribute.append(onnx.helper.make_attribute("no_such_attribute", 1))

    found = verify(edited(quantized, "spoilt.onnx", spoil), original, feeds, timing=QUICK)
    assert "no_such_attribute" in found.checker and not found.is_sound
    assert any(one.startswith("the ONNX checker rejects") for one in found.problems)
    assert any("does not run in ONNX Runtime" in one for one in found.problems)


def test_an_output_that_is_not_finite_is_a_problem_with_its_batch_and_has_no_distance(residual: Made) -> None:
    quantized, original, feeds = residual
    found = verify(edited(quantized, "infinite.onnx", scaled(math.inf, "linear_scale")), original, feeds, timing=QUICK)
    (one,) = found.trials[0].outputs
    assert one.bad_batch == 0 and one.original_db is None and not found.is_sound
    assert any("linear is not finite on batch 0" in text for text in found.problems)
    json.dumps(found.to_plain(), allow_nan=False)


def test_an_output_of_no_more_signal_than_noise_is_a_warning(residual: Made) -> None:
    quantized, original, feeds = residual
    found = verify(edited(quantized, "lost.onnx", scaled(-1, "head.weight_quantized")), original, feeds, timing=QUICK)
    assert any("no more signal than noise" in text for text in found.warnings)


def test_a_file_of_another_network_is_refused(residual: Made, tmp_path: Path) -> None:
    quantized, _, feeds = residual
    other, _ = float_file("depthwise", tmp_path)

    def rename(model: ModelProto) -> None:
        model.graph.node[-1].output[0] = model.graph.output[0].name = "another"

    with pytest.raises(EvaluateError, match="an output of the quantized file that the original lacks"):
        verify(quantized, edited(other, "renamed.onnx", rename), feeds, timing=QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feeds": []}, "no batch to verify with"),
        ({"expected": []}, "3 batches of inputs, but 0"),
        ({"delivered": Path("missing.onnx")}, "no such file"),
    ],
)
def test_what_cannot_be_verified_is_refused(residual: Made, change: dict, message: str) -> None:
    given = dict(zip(("delivered", "original", "feeds"), residual, strict=True)) | change
    with pytest.raises(EvaluateError, match=message):
        verify(**given, timing=QUICK)


def test_a_feed_without_an_input_is_refused(residual: Made) -> None:
    with pytest.raises(RunError, match="x: an input of the network that the feeds lack"):
        verify(*residual[:2], [{"y": residual[2][0]["x"]}], timing=QUICK)


def test_every_small_network_is_verified_in_every_form(tmp_path: Path) -> None:
    for name in ("depthwise", "squeeze", "attention", "two_inputs"):
        path, feeds = float_file(name, tmp_path)
        for quantized in (static(path, feeds), dynamic(path)):
            found = verify(quantized, path, feeds, timing=replace(QUICK, most=1, least=1))
            trial = found.trials[0]
            assert found.is_sound and trial.outputs[0].original_db > 20
            kinds = {one.kind.value for one in trial.operators if one.is_linear}
            assert "integer" in kinds and "idle" not in trial.counts()
            assert all(bool(one.reason) == (one.kind.value == "float") for one in trial.operators)


@pytest.mark.skipif(len(ENGINES) == 1, reason="OpenVINO is not installed")
def test_openvino_runs_the_same_file_in_integers(delivery: Delivery) -> None:
    trial = delivery.trials[1]
    linear = [one for one in trial.operators if one.is_linear]
    assert linear and all(one.kind.value == "integer" for one in linear)
    assert trial.outputs[0].original_db > 30 and {one.against for one in trial.latencies} >= {"fp32"}
