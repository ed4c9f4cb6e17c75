"""Choosing a rule by measurement on held-out samples."""

from __future__ import annotations

import pytest
import torch

from bitwright.calib import (
    Auto,
    Average,
    Choice,
    Entropy,
    HeldOut,
    Histogram,
    MeanMinMax,
    MeanSquaredError,
    MinMaxRange,
    Percentile,
    activation_params,
    choose,
    choose_each,
)
from bitwright.numerics import Spec, quantize
from conformance.ranges import ACTIVATIONS, FLOATS, VALUES, seen, values_of


def halves(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    values = values_of(kind, 16, 5000)
    return values[:8], values[8:]


def each(values: torch.Tensor) -> HeldOut:
    held = HeldOut()
    held.add(values, 0)
    return held


def chosen(values: torch.Tensor, held_out: torch.Tensor, name: str, rule: Auto = Auto()) -> Choice:
    return choose(rule, seen(values), ACTIVATIONS[name], each(held_out))


def ratios(values: torch.Tensor, spec: Spec, low: float, high: float) -> torch.Tensor:
    """SQNR in dB of every sample, from the values themselves."""
    stored = quantize(values.reshape(1, -1), spec, activation_params(low, high, spec)).dequantize()
    noise = (stored.reshape(values.shape) - values).double().square().mean(1)
    return 10 * torch.log10(values.double().square().mean(1) / noise)


@pytest.mark.parametrize("kind", ["normal", "rectified", "swish", "clipped", "outlier"])
@pytest.mark.parametrize("name", ["uint8", "int8", "uint4"])
def test_every_trial_has_the_mean_ratio_of_the_held_out_values_and_the_best_is_taken(kind: str, name: str) -> None:
    values, held_out = halves(kind)
    choice = chosen(values, held_out, name)
    for trial in choice.trials:
        expected = float(ratios(held_out, ACTIVATIONS[name], trial.low, trial.high).mean())
        assert trial.sqnr == pytest.approx(expected, abs=0.1), trial
    assert choice.taken.sqnr == max(trial.sqnr for trial in choice.trials if not trial.is_refused)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("name", ["uint8", "int8", "uint4", "uint8_no_zero"])
def test_auto_is_never_worse_than_the_extremes(kind: str, name: str) -> None:
    choice = chosen(*halves(kind), name)
    assert choice.taken.sqnr >= choice.trials[0].sqnr and choice.trials[0].rule == MinMaxRange()


def test_each_trial_reports_the_range_of_its_rule() -> None:
    values, held_out = halves("swish")
    for trial in chosen(values, held_out, "uint8").trials:
        assert (trial.low, trial.high) == trial.rule.range(seen(values), ACTIVATIONS["uint8"])


def few_large_samples() -> torch.Tensor:
    values = torch.randn(20, 4000, generator=torch.Generator().manual_seed(0))
    values[3] *= 30
    return values


def test_one_large_sample_among_many_does_not_decide() -> None:
    values = few_large_samples()
    by_sample = choose(Auto(), seen(values), ACTIVATIONS["uint8"], each(values)).taken
    together = choose(Auto(), seen(values), ACTIVATIONS["uint8"], [seen(values)]).taken
    assert by_sample.rule == MeanMinMax() and by_sample.high < 0.3 * together.high
    spec = ACTIVATIONS["uint8"]
    gain = ratios(values, spec, by_sample.low, by_sample.high) - ratios(values, spec, together.low, together.high)
    assert int((gain > 6).sum()) == 19


def test_values_that_are_large_in_every_sample_keep_their_range() -> None:
    values = torch.randn(20, 4000, generator=torch.Generator().manual_seed(0))
    values[:, 0] = 200.0  # as in transformers, where a few such values carry the meaning
    rules = (MinMaxRange(), Percentile(99.9))
    choice = chosen(values, values, "uint8", Auto(rules))
    assert [trial.is_refused for trial in choice.trials] == [False, True] and choice.trials[1].clipped > 0.5
    assert choice.taken.rule == MinMaxRange()


def test_the_guard_refuses_even_what_measures_better() -> None:
    values = torch.randn(20, 20_000, generator=torch.Generator().manual_seed(0))
    values[:, 0] = 60.0
    rules = (MinMaxRange(), Percentile(99.9))
    guarded, free = (chosen(values, values, "uint4", Auto(rules, guard)) for guard in (0.01, 1.0))
    assert free.trials[1].sqnr > free.trials[0].sqnr and free.taken.rule == Percentile(99.9)
    assert guarded.trials[1].is_refused and guarded.taken.rule == MinMaxRange()


def test_the_guard_lets_a_balanced_clip_pass_at_few_bits() -> None:
    choice = chosen(*halves("normal"), "uint2")
    assert choice.taken.rule == MeanSquaredError() and choice.taken.clipped > 0.01


def test_held_out_values_beyond_the_calibrated_ones_count_against_a_tight_range() -> None:
    values = values_of("normal", 8, 5000)
    assert chosen(values, values * 3, "uint8").taken.rule == MinMaxRange()


def test_range_alone_judges_on_the_same_values_as_one_sample() -> None:
    histogram, spec = seen(values_of("swish")), ACTIVATIONS["uint8"]
    taken = choose(Auto(), histogram, spec, [histogram]).taken
    assert Auto().range(histogram, spec) == (taken.low, taken.high)


def test_any_rule_is_reported_alike() -> None:
    values, held_out = halves("swish")
    histogram, spec = seen(values), ACTIVATIONS["uint8"]
    alone = choose(Percentile(99.99), histogram, spec, each(held_out))
    among = choose(Auto(), histogram, spec, each(held_out)).trials
    assert alone.trials == (alone.taken,) and alone.taken in among


def test_formats_with_unequal_steps_are_chosen_for_without_entropy() -> None:
    histogram = seen(values_of("normal"))
    trials = choose(Auto(), histogram, FLOATS["fp8"], [histogram]).trials
    assert Entropy() not in [trial.rule for trial in trials] and len(trials) == 5


def test_of_equal_rules_the_first_is_taken() -> None:
    zeros = values_of("zeros")
    assert chosen(zeros, zeros, "uint8").taken.rule == MinMaxRange()


def test_samples_of_zeros_and_without_finite_values_say_nothing() -> None:
    values, held_out = halves("normal")
    more = torch.cat([held_out, torch.zeros(2, 5000), torch.full((1, 5000), torch.nan)])
    assert chosen(values, more, "uint8") == chosen(values, held_out, "uint8")


@pytest.mark.parametrize("held_out", [[], [Histogram()]])
def test_nothing_held_out_is_an_error(held_out: list[Histogram]) -> None:
    with pytest.raises(ValueError, match="no finite value was seen in held-out samples"):
        choose(Auto(), seen(values_of("normal")), ACTIVATIONS["uint8"], held_out)


@pytest.mark.parametrize("settings", [{"rules": ()}, {"rules": (Auto(),)}, {"guard": -1.0}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Auto wants"):
        Auto(**settings)  # type: ignore[arg-type]


def test_the_mean_of_the_noise_gives_up_no_single_sample() -> None:
    values = few_large_samples()
    spec = ACTIVATIONS["uint8"]
    choice = choose(Auto(average=Average.NOISE), seen(values), spec, each(values))
    decibels = choose(Auto(), seen(values), spec, each(values)).taken
    for trial in choice.trials:
        expected = float((10 ** (-ratios(values, spec, trial.low, trial.high) / 10)).mean())
        assert trial.noise == pytest.approx(expected, rel=0.03), trial
    assert choice.taken.noise == min(trial.noise for trial in choice.trials if not trial.is_refused)
    assert choice.taken.noise < decibels.noise and choice.taken.sqnr < decibels.sqnr


@pytest.mark.parametrize("name", ["uint8", "int8", "uint4"])
def test_many_rules_at_once_choose_as_each_alone(name: str) -> None:
    values, held_out = halves("swish")
    rules = (Auto(), Auto(average=Average.NOISE), MeanMinMax(), Percentile(99.9))
    alone = tuple(choose(rule, seen(values), ACTIVATIONS[name], each(held_out)) for rule in rules)
    together = choose_each(rules, seen(values), ACTIVATIONS[name], each(held_out))
    for one, other in zip(alone, together, strict=True):
        assert (one.taken.rule, one.taken.low, one.taken.high) == (other.taken.rule, other.taken.low, other.taken.high)
        assert one.taken.noise == pytest.approx(other.taken.noise, rel=1e-12)
