"""Presets say what their names say."""

from __future__ import annotations

import pytest
import torch

from bitwright.numerics import Format, Int
from bitwright.recipe.presets import PRESETS, nearest
from bitwright.solvers import Nearest


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("w8a16", 8 + 16 / 1024),
        ("w4a16", 4 + 20 / 128),
        ("w4a16_sym", 4 + 16 / 128),
        ("w3a16", 3 + 19 / 128),
        ("w2a16", 2 + 18 / 128),
        ("fp8", 8 + 16 / 1024),
        ("nf4", 4 + 16 / 64),
    ],
)
def test_bits_per_weight_are_those_of_the_name(name: str, bits: float) -> None:
    (rule,) = PRESETS[name]().rules
    assert rule.match == "*" and rule.weights is not None
    assert rule.weights.resolve(torch.float16).bits((1024, 1024)) / 1024**2 == bits


def test_every_preset_has_a_sentence() -> None:
    assert all(make.__doc__ and make.__name__ == name for name, make in PRESETS.items())


@pytest.mark.parametrize("name", PRESETS)
def test_the_baseline_has_the_same_storage_and_needs_no_data(name: str) -> None:
    recipe, baseline = PRESETS[name](), nearest(PRESETS[name]())
    assert baseline.rules == recipe.rules and baseline.search == recipe.search
    assert recipe.solver.needs_gram and isinstance(baseline.solver, Nearest)


@pytest.mark.parametrize("name", ["w4a16", "w3a16", "w2a16"])
def test_a_zero_has_as_many_bits_as_a_code(name: str) -> None:
    spec = PRESETS[name]().rules[0].weights
    assert spec is not None and spec.zero is not None
    form: Format = spec.zero.format
    assert form == spec.format and isinstance(form, Int) and not form.signed
