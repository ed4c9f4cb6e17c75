"""What is foretold of a target: whether it is here, its own figure, and where its arithmetic loses what others keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from bitwright.evaluate.error import EvaluateError
from bitwright.evaluate.foretold import Aim, foretell
from bitwright.evaluate.metric import callable_model, measure_metric
from bitwright.execute.integers import IntegerRunner
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.numerics import Arithmetic
from bitwright.numerics.machine import Machine, this_machine
from bitwright.recipe.targets import TARGETS
from bitwright.store.onnx_source import read_model
from evaluate.deliveries import edited, float_file, static

VNNI, OLD, ARM = Machine("a", "x86_64", 1, True), Machine("b", "x86_64", 1, False), Machine("c", "aarch64", 1, None)


def aim(name: str) -> Aim:
    return Aim(name, TARGETS[name].engine, TARGETS[name].arithmetic, TARGETS[name].without_vnni is not None)


@pytest.mark.parametrize(
    ("name", "machines"), [("x86-vnni", [VNNI]), ("x86-avx2", [OLD]), ("arm", [ARM]), ("tensorrt", [])]
)
def test_a_target_is_here_where_its_engine_computes_the_same(name: str, machines: list[Machine]) -> None:
    assert [machine for machine in (VNNI, OLD, ARM) if aim(name).is_here(machine)] == machines


def runner(path: Path) -> OnnxRunner:
    return OnnxRunner(read_model(path), path.parent, exact=True)


def loud(model: ModelProto) -> None:
    """All weights at the ends of their codes: pairs of products overflow 16 bits."""
    for held in model.graph.initializer:
        if held.data_type == TensorProto.INT8 and len(held.dims) > 1:
            codes = np.where(numpy_helper.to_array(held) >= 0, 127, -127).astype(np.int8)
            held.CopyFrom(numpy_helper.from_array(codes, held.name))


def test_the_figure_is_that_of_the_outputs_and_the_file_is_compared_with_itself_in_floats(tmp_path: Path) -> None:
    original, feeds = float_file("residual", tmp_path)
    path = static(original, feeds)
    found = foretell(path, aim("x86-vnni"), this_machine(), runner(original), runner(path), feeds)
    assert found is not None and found.warnings == () and len(found.made) == len(feeds)
    exact = np.concatenate([runner(original).run(one)["linear"].numpy().ravel() for one in feeds])
    made = np.concatenate([one["linear"].numpy().ravel() for one in found.made])
    decibels = 10 * np.log10((exact**2).sum() / ((made - exact) ** 2).sum())
    (output,) = found.outputs
    assert output.original_db == pytest.approx(decibels, abs=1e-4)
    assert output.simulation_db is not None and output.simulation_db > output.original_db + 6
    assert found.to_plain()["target"] == "x86-vnni" and "made" not in found.to_plain()


def test_saturation_is_a_warning_with_its_remedy(tmp_path: Path) -> None:
    original, feeds = float_file("residual", tmp_path)
    path = edited(static(original, feeds), "loud.onnx", loud)
    in_floats = runner(path)
    old = foretell(path, aim("x86-avx2"), VNNI, in_floats, in_floats, feeds)
    assert old is not None and not old.is_here and "weights have 7 bits" in old.warnings[0]
    new = foretell(path, aim("x86-vnni"), VNNI, in_floats, in_floats, feeds)
    assert new is not None and new.outputs[0].original_db > old.outputs[0].original_db + 20


def test_a_float_file_foretells_nothing_and_one_that_cannot_run_is_an_error(tmp_path: Path) -> None:
    original, feeds = float_file("residual", tmp_path)
    floats = runner(original)
    assert foretell(original, aim("arm"), VNNI, floats, floats, feeds) is None
    path = static(original, feeds)
    with pytest.raises(EvaluateError, match="arm: not simulated in integers"):
        foretell(path, aim("arm"), VNNI, floats, floats, [{}])


def test_the_users_metric_scores_the_simulated_network(tmp_path: Path) -> None:
    original, feeds = float_file("residual", tmp_path)
    path = edited(static(original, feeds), "loud.onnx", loud)
    arithmetics: list[Arithmetic] = [TARGETS[name].arithmetic for name in ("x86-vnni", "x86-avx2")]
    models = [callable_model(IntegerRunner(path, one)) for one in arithmetics]

    def size(model: object) -> float:
        return float(model(feeds[0]).abs().mean())  # type: ignore[operator]

    measured = measure_metric(size, "size", *models)
    assert measured.original != measured.delivered
