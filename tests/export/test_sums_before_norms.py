"""A sum before a layer normalization stays apart from it, and keeps every bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitwright.export.sums_before_norms import separate_sums
from export.arranged import assert_same_bits, operators, optimised, rewritten, source_of

STREAM = "g (float[B, T, 8] x, float[B, T, 8] y) => (float[B, T, 8] out)"
ONES = "<float[8] gain = {1, 1, 2, 1, 1, 1, 1, 1}, float[8] shift = {0, 0, 0, 0, 0, 0, 0, 3}>"
WHOLE = f"{STREAM} {ONES} {{ sum = Add(x, y) out = LayerNormalization <axis = -1> (sum, gain, shift) }}"
WRITTEN_OUT = f"""{STREAM} <float two = {{2.0}}, float small = {{0.00001}}, int64[1] last = {{-1}}> {{
    sum = Add(x, y) mean = ReduceMean(sum, last) rest = Sub(sum, mean) square = Pow(rest, two)
    spread = ReduceMean(square, last) safe = Add(spread, small) root = Sqrt(safe) out = Div(rest, root) }}"""
NO_NORM = f"{STREAM} {{ sum = Add(x, y) out = Softmax(sum) }}"


def feeds() -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    return {name: draws.standard_normal((2, 5, 8)).astype(np.float32) for name in "xy"}


@pytest.mark.parametrize("text", [WHOLE, WRITTEN_OUT], ids=["whole", "written out"])
def test_the_sum_before_a_norm_becomes_a_sum_of_the_same_bits(tmp_path: Path, text: str) -> None:
    source = source_of(text, tmp_path)
    model = rewritten(source, separate_sums)
    assert operators(model)["Sum"] == 1
    assert operators(model)["Add"] == operators(source.model())["Add"] - 1
    assert_same_bits(source, model, feeds())


def test_the_engine_no_longer_joins_the_two(tmp_path: Path) -> None:
    source = source_of(WHOLE, tmp_path)
    assert optimised(source.model(), tmp_path)["SkipLayerNormalization"] == 1
    left = optimised(rewritten(source, separate_sums), tmp_path)
    assert left["SkipLayerNormalization"] == 0
    assert left["LayerNormalization"] == 1


def test_other_sums_stay(tmp_path: Path) -> None:
    source = source_of(NO_NORM, tmp_path)
    assert rewritten(source, separate_sums) == source.model()
