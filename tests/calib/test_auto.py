"""Choosing a rule by measurement on held-out samples."""

from __future__ import annotations

import pytest
import torch

from bitwright.calib import (
    Auto,
    Entropy,
    Histogram,
    MeanSquaredError,
    MinMaxRange,
    Percentile,
    activation_params,
    choose,
    sqnr,
)
from bitwright.numerics import quantize
from conformance.ranges import ACTIVATIONS, FLOATS, VALUES, seen, values_of


def halves(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    values = values_of(kind, 16, 5000)
    return values[:8], values[8:]


@pytest.mark.parametrize("kind", ["normal", "rectified", "swish", "clipped"])
@pytest.mark.parametrize("name", ["uint8", "int8", "uint4"])
def test_the_taken_rule_has_the_least_error_on_held_out_values(kind: str, name: str) -> None:
    values, held_out = halves(kind)
    spec = ACTIVATIONS[name]
    choice = Auto().choose(seen(values), spec, seen(held_out))
    errors = {}
    for trial in choice.trials:
        params = activation_params(trial.low, trial.high, spec)
        stored = quantize(held_out.reshape(1, -1), spec, params).dequantize()
        errors[trial.rule] = float((stored - held_out.reshape(1, -1)).double().square().mean())
    allowed = [errors[trial.rule] for trial in choice.trials if not trial.is_refused]
    assert errors[choice.taken.rule] <= 1.01 * min(allowed)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("name", ["uint8", "int8", "uint4", "uint8_no_zero"])
def test_auto_is_never_worse_than_the_extremes(kind: str, name: str) -> None:
    values, held_out = halves(kind)
    choice = Auto().choose(seen(values), ACTIVATIONS[name], seen(held_out))
    assert choice.taken.sqnr >= choice.trials[0].sqnr and choice.trials[0].rule == MinMaxRange()


def test_each_trial_reports_the_range_and_noise_of_its_rule() -> None:
    values, held_out = halves("swish")
    spec, histogram = ACTIVATIONS["uint8"], seen(values)
    for trial in Auto().choose(histogram, spec, seen(held_out)).trials:
        assert (trial.low, trial.high) == trial.rule.range(histogram, spec)
        params = activation_params(trial.low, trial.high, spec)
        assert trial.sqnr == sqnr(seen(held_out), spec, params)


def test_the_guard_refuses_a_range_that_clips_the_energy_away() -> None:
    values, held_out = halves("normal")
    values[:, 0] = held_out[:, 0] = 300.0  # rare and always there, as in transformers: they carry the meaning
    rules = (MinMaxRange(), Percentile(99.9))
    choice = Auto(rules).choose(seen(values), ACTIVATIONS["uint4"], seen(held_out))
    assert [trial.is_refused for trial in choice.trials] == [False, True]
    assert choice.taken.rule == MinMaxRange()


def test_the_guard_lets_a_balanced_clip_pass_at_few_bits() -> None:
    values, held_out = halves("normal")
    choice = Auto().choose(seen(values), ACTIVATIONS["uint2"], seen(held_out))
    assert choice.taken.rule == MeanSquaredError()


def test_held_out_values_beyond_the_calibrated_ones_count_against_a_tight_range() -> None:
    values, held_out = values_of("normal", 8, 5000), values_of("normal", 8, 5000) * 3
    choice = Auto().choose(seen(values), ACTIVATIONS["uint8"], seen(held_out))
    assert choice.taken.rule == MinMaxRange()


def test_range_alone_judges_on_the_same_values() -> None:
    histogram, spec = seen(values_of("swish")), ACTIVATIONS["uint8"]
    taken = Auto().choose(histogram, spec, histogram).taken
    assert Auto().range(histogram, spec) == (taken.low, taken.high)


def test_formats_with_unequal_steps_are_chosen_for_without_entropy() -> None:
    histogram = seen(values_of("normal"))
    trials = Auto().choose(histogram, FLOATS["fp8"], histogram).trials
    assert Entropy() not in [trial.rule for trial in trials] and len(trials) == 4


def test_of_equal_rules_the_first_is_taken() -> None:
    histogram = seen(values_of("zeros"))
    assert Auto().choose(histogram, ACTIVATIONS["uint8"], histogram).taken.rule == MinMaxRange()


def test_nothing_held_out_is_an_error() -> None:
    with pytest.raises(ValueError, match="no finite value was seen"):
        Auto().choose(seen(values_of("normal")), ACTIVATIONS["uint8"], Histogram())


@pytest.mark.parametrize("settings", [{"rules": ()}, {"rules": (Auto(),)}, {"guard": -1.0}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Auto wants"):
        Auto(**settings)  # type: ignore[arg-type]


def test_any_rule_is_reported_alike() -> None:
    values, held_out = (seen(half) for half in halves("swish"))
    spec = ACTIVATIONS["uint8"]
    alone = choose(Percentile(99.99), values, spec, held_out)
    among = Auto().choose(values, spec, held_out)
    assert alone.trials == (alone.taken,) and alone.taken == among.trials[2]
    assert choose(Auto(), values, spec, held_out) == among
