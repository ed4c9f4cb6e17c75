"""Predictions from shapes: exact where they claim to be, and near the truth where they are estimates."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bitwright.engine import choose, collect, passage, tape
from bitwright.execute import batches
from bitwright.numerics import Int, Spec, per_group, triangle
from bitwright.quantize import plan_source, quantize
from bitwright.recipe import cost
from bitwright.recipe.cost import Cost, Machine, Types, predict
from bitwright.recipe.plan import Plan
from bitwright.recipe.presets import OWN, nearest, w4a16
from bitwright.recipe.recipe import Recipe, Rule
from bitwright.store.source import Source, open_source
from cli.conftest import save_llama

ROOT = Path(__file__).resolve().parents[2]
BOTH = Types(torch.float32, torch.float32)
SLOW = Machine(1e9, 1e9)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(save_llama(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def plan(source: Source) -> Plan:
    return plan_source(source, w4a16())


def cost_of(plan: Plan, rows: int = 32, length: int = 64, types: Types = BOTH) -> Cost:
    return predict(plan, rows, length, types, SLOW)


def test_limits_are_those_of_the_engine() -> None:
    assert collect._GRAM_BYTES == cost.SUMS_BYTES
    assert triangle.ROWS == cost.FACTOR_ROWS
    assert tape._LIMIT == passage._LIMIT == cost.TAPE_BYTES
    assert choose._DECIDING_TOKENS == cost.DECIDING_TOKENS
    assert inspect.signature(batches).parameters["tokens"].default == cost.BATCH_TOKENS


def test_stored_bytes_are_those_of_the_artifact(source: Source, tmp_path: Path) -> None:
    recipe = nearest(Recipe((Rule("kind:head", Spec(Int(8), per_group(64), scale=OWN)), *w4a16().rules)))
    artifact = quantize(source, recipe, tmp_path / "out")
    found = cost_of(plan_source(source, recipe), rows=0)
    weights = artifact.manifest["weights"]
    assert 8 * found.weight_bytes == sum(weight["bits"] for weight in weights)
    assert found.weights == sum(weight["shape"][0] * weight["shape"][1] for weight in weights)
    arrays = sum(tensor_bytes(file) for _, file in artifact.parts())
    assert found.bytes == arrays


def tensor_bytes(file: Path) -> int:
    """Bytes of the arrays of a safetensors file, read off its header."""
    with open(file, "rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    spans = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    return sum(stop - start for start, stop in spans)


def test_bits_per_weight_count_scales_and_zeros(plan: Plan) -> None:
    assert cost_of(plan).bits_per_weight == 4 + (16 + 4) / 128
    assert cost_of(plan).model_bits_per_weight > cost_of(plan).bits_per_weight


def test_streams_are_two_pairs_the_tape_and_what_is_put_aside(plan: Plan) -> None:
    tokens, hidden, intermediate = 32 * 64, 128, 256
    read = hidden + hidden + hidden + intermediate  # q k v; o; gate and up; down
    written = 2 * hidden  # o and down
    assert plan.graph.stream.width == hidden
    aside = intermediate + hidden  # what down reads, and the stream
    assert cost_of(plan).stream_bytes == 4 * tokens * (4 * hidden + read + written + aside)
    assert cost_of(plan).disk_bytes == cost_of(plan).bytes + cost_of(plan).stream_bytes


def test_without_rows_there_are_no_streams(source: Source) -> None:
    free = cost_of(plan_source(source, nearest(w4a16())), rows=0)
    assert free.stream_bytes == 0
    assert free.seconds > 0


def test_rows_cost_time_and_disk_but_no_memory(plan: Plan) -> None:
    few, many = cost_of(plan, rows=128), cost_of(plan, rows=1280)
    assert many.seconds > few.seconds and many.stream_bytes == 10 * few.stream_bytes
    assert many.peak_ram_bytes == few.peak_ram_bytes


def test_a_faster_machine_takes_less_time(plan: Plan) -> None:
    fast = predict(plan, 32, 64, BOTH, Machine(1e12, 1e12))
    assert fast.seconds < cost_of(plan).seconds
    assert replace(fast, seconds=0) == replace(cost_of(plan), seconds=0)


def test_only_models_in_bfloat16_gain_from_fast_short_products(plan: Plan) -> None:
    quick = Machine(1e9, 1e12)
    assert predict(plan, 32, 64, BOTH, quick) == cost_of(plan)
    mixed = Types(torch.bfloat16, torch.float32)
    assert predict(plan, 32, 64, mixed, quick).seconds < cost_of(plan, types=mixed).seconds


def test_another_type_than_the_files_costs_copies(plan: Plan) -> None:
    same, other = (cost_of(plan, types=Types(torch.float16, compute)) for compute in (torch.float16, torch.float32))
    assert other.peak_ram_bytes > same.peak_ram_bytes


def measured(model: Path, out: Path, *options: str) -> dict[str, Any]:
    """What a run of the command line measured and had predicted."""
    text = ROOT / "examples" / "bookllama" / "calibration.txt"
    command = ["quantize", model, "-c", text, "-o", out, "--threads", "1", "--json", *options]
    done = subprocess.run(
        [sys.executable, "-m", "bitwright.cli", *map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)
    return data


def check_peak(found: dict[str, Any]) -> None:
    """About the real peak, nor over 30 % above it; what the allocator holds differs by 160 MiB between runs.

    Of some hundred runs on one machine two were above the prediction, by 0.3 % and by 1.5 %.
    """
    real, predicted = found["peak_ram_bytes"], found["peak_ram_bytes_predicted"]
    assert real <= 1.05 * predicted
    assert predicted <= 1.3 * real + (128 << 20)


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_the_predicted_peak_is_a_little_above_the_real_one(bookllama: Path, tmp_path: Path, compute: str) -> None:
    check_peak(measured(bookllama, tmp_path / "out", "-r", "w4a16", "--samples", "16", "--compute", compute))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["w4a16", "w8a16"])
def test_the_predicted_peak_of_a_wider_model_is_as_near(tmp_path: Path, recipe: str) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 8}
    model = save_llama(tmp_path / "model", **sizes, max_position_embeddings=512)
    held = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    held.save_pretrained(model)
    check_peak(measured(model, tmp_path / "out", "-r", recipe, "--samples", "16"))
