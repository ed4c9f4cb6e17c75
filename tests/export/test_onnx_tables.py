"""Tables that rows are picked from: 8 bits and a scale a row in the artifact and in the file, the same numbers out."""

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
from bitwright.export.onnx_forms import OnnxForm, export_onnx
from bitwright.numerics import PER_ROW, Int, Spec
from bitwright.recipe.network import NetworkRecipe, fp8_static, int8, int8_dynamic, plan_network, w4a8, w4a16, w8a16
from bitwright.recipe.network_cost import weight_bytes
from bitwright.recipe.targets import Role
from bitwright.store.network_artifact import open_network, read_manifest
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.samples import read_samples

ROWS, COLUMNS, LENGTH = 700, 32, 6


def file(path: Path, rows: int = ROWS, twice: bool = False, tied: bool = False, axis: int = 0) -> Path:
    """ids -> Gather -> Relu -> MatMul; `twice`: a second Gather is added; `tied`: the table multiplies, too."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(rows, COLUMNS)) * rng.uniform(0.1, 3, size=(rows, 1))
    table[3] = 0.0
    held = {"table": table if axis == 0 else table.T, "w": rng.normal(0, 0.2, (COLUMNS, COLUMNS))}
    nodes = [helper.make_node("Gather", ["table", "ids"], ["rows"], "pick", axis=axis)]
    made = "rows"
    if axis == 1:
        nodes.append(helper.make_node("Transpose", ["rows"], ["turned"], "turn", perm=[1, 2, 0]))
        made = "turned"
    if twice:
        nodes.append(helper.make_node("Gather", ["table", "others"], ["more"], "pick again", axis=-2))
        nodes.append(helper.make_node("Add", ["rows", "more"], ["sum"], "sum"))
        made = "sum"
    nodes += [helper.make_node("Relu", [made], ["v"], "relu"), helper.make_node("MatMul", ["v", "w"], ["y"], "product")]
    outputs = {"y": COLUMNS}
    if tied:
        nodes.append(helper.make_node("Gemm", ["flat", "table"], ["scores"], "scores", transB=1))
        nodes.insert(-1, helper.make_node("Reshape", ["y", "two"], ["flat"], "flatten"))
        outputs["scores"] = rows
    numbers = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in held.items()]
    numbers += [numpy_helper.from_array(np.array([-1, COLUMNS]), "two")] if tied else []
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", LENGTH]) for n in ("ids", "others")]
    made_outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "graph", inputs if twice else inputs[:1], made_outputs, numbers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def quantized(path: Path, recipe: NetworkRecipe, folder: Path) -> tuple[OnnxSource, Path]:
    source = OnnxSource.open(path)
    network, rng = source.network(), np.random.default_rng(1)
    drawn = {name: rng.integers(0, ROWS, (24, LENGTH)) for name in network.inputs}
    np.savez(folder.with_suffix(".npz"), **drawn)
    samples = read_samples(folder.with_suffix(".npz"), [network.values[name] for name in network.inputs])
    quantize_network(source, recipe, folder, samples)
    return source, folder


def feeds(source: OnnxSource) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(3)
    return {name: torch.randint(0, ROWS, (2, LENGTH), generator=draws) for name in source.network().inputs}


def decibels(wanted: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


RECIPES = {
    "static": (int8(), OnnxForm.STANDARD),
    "dynamic": (int8_dynamic(), OnnxForm.STANDARD),
    "learned": (replace(w4a8(), activation_bits=8), OnnxForm.STANDARD),
    "8 bits": (w8a16(), OnnxForm.STANDARD),
    "4 bits": (w4a16(), OnnxForm.STANDARD),
    "nbits": (w4a16(), OnnxForm.NBITS),
    "float8": (fp8_static(), OnnxForm.STANDARD),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("twice", [False, True])
def test_rows_come_out_as_they_are_stored(name: str, twice: bool, tmp_path: Path) -> None:
    recipe, form = RECIPES[name]
    source, out = quantized(file(tmp_path / "f.onnx", twice=twice), recipe, tmp_path / "out")
    held = open_network(out)
    table, stored = source.read(["table"])["table"], held.weights["table"]
    steps = table.abs().amax(1, keepdim=True) / 127
    plain = steps * (table / steps.clamp(min=1e-30)).round()
    assert stored.qtensor.codes.dtype == torch.int8
    errors = [(values - table).square().sum(1) for values in (stored.dequantize(), plain)]
    assert bool((errors[0] <= errors[1] * 1.05 + 1e-12).all())  # the fitter may use -128, too, or a range that is less
    noise = next(one for one in read_manifest(out)["weights"] if one["name"] == "table")
    assert noise["sqnr"] == pytest.approx(decibels(table, stored.dequantize()), abs=1e-3)
    assert "rows are picked" in noise["notes"][0]
    export_onnx(held, tmp_path / "q.onnx", form)
    model = onnx.load(tmp_path / "q.onnx")
    kinds = {held.name: held.data_type for held in model.graph.initializer}
    assert "table" not in kinds and kinds["table.codes"] == TensorProto.INT8
    assert sum(name.startswith("table") for name in kinds) == 2
    feed = feeds(source)
    model.graph.output.append(helper.make_tensor_value_info("rows", TensorProto.FLOAT, None))
    found = OnnxRunner(model, tmp_path, exact=name == "float8").run(feed)
    assert torch.equal(found["rows"], stored.dequantize()[feed["ids"]])
    wanted, simulated = OnnxRunner(source).run(feed)["y"], Simulation.of(held).run(feed)["y"]
    assert decibels(simulated, found["y"]) > 35
    assert decibels(wanted, found["y"]) > 15


def test_a_table_that_multiplies_too_has_codes_for_both(tmp_path: Path) -> None:
    source, folder = quantized(file(tmp_path / "f.onnx", tied=True), int8(), tmp_path / "run")
    artifact = open_network(folder)
    assert sum(held.qtensor.codes.shape == (ROWS, COLUMNS) for held in artifact.weights.values()) == 2
    export_onnx(artifact, tmp_path / "out.onnx", OnnxForm.STANDARD)
    assert (tmp_path / "out.onnx").stat().st_size < 0.7 * source.path.stat().st_size
    feed = feeds(source)
    wanted, found = OnnxRunner(source).run(feed), OnnxRunner(onnx.load(tmp_path / "out.onnx")).run(feed)
    assert all(decibels(wanted[name], found[name]) > 20 for name in ("y", "scores"))


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        ({"rows": 400}, int8()),  # too small to matter
        ({"tied": True}, int8()),  # a product reads it, too: a run gives it a copy beforehand
        ({"axis": 1}, int8()),  # columns are picked
        ({}, int8("tensorrt")),
        ({}, replace(int8(), keep=("pick",))),
    ],
)
def test_where_it_stays_float(options: dict[str, int], recipe: NetworkRecipe, tmp_path: Path) -> None:
    network = OnnxSource.open(file(tmp_path / "f.onnx", **options)).network()
    plan = plan_network(network, recipe)
    assert "pick" not in plan.placement.integer and plan.placement.floats["pick"]


def test_the_plan_counts_a_byte_a_number_and_a_scale_a_row(tmp_path: Path) -> None:
    network = OnnxSource.open(file(tmp_path / "f.onnx", twice=True)).network()
    plan = plan_network(network, int8())
    step = next(step for step in plan.weights if step.name == "table")
    assert (step.spec, step.nodes) == (Spec(Int(8), PER_ROW), ("pick", "pick again"))
    assert plan.placement.integer["pick"] is Role.TABLE
    before, after = weight_bytes(network, replace(plan, weights=(step,)))
    assert before == 4 * ROWS * COLUMNS
    assert after == pytest.approx(ROWS * COLUMNS + 4 * ROWS, abs=ROWS)
