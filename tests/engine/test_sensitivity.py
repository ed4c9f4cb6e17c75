"""What one bit more or half the group would buy, and what the numbers of a weight look like."""

from __future__ import annotations

import pytest
import torch

from bitwright.engine.sensitivity import distribution, grid, half_the_group, one_bit_more, remedies
from bitwright.numerics import NF4, PER_ROW, PER_TENSOR, Float, Float8, FloatKind, Int, Spec, Tile, per_group
from bitwright.recipe.presets import asymmetric

HALF = Spec(Float(FloatKind.FLOAT16))
INT4 = Spec(Int(4), per_group(32), scale=HALF)


def weight() -> torch.Tensor:
    return torch.randn(8, 64, generator=torch.Generator().manual_seed(0))


def test_one_bit_more_goes_to_codes_and_to_integer_zeros() -> None:
    assert one_bit_more(INT4) == Spec(Int(5), per_group(32), scale=HALF)
    assert one_bit_more(asymmetric(3, 16)) == asymmetric(4, 16)


@pytest.mark.parametrize("spec", [Spec(Int(8), PER_ROW, scale=HALF), Spec(Float8(), PER_ROW, scale=HALF)])
def test_formats_of_fixed_width_have_no_further_bit(spec: Spec) -> None:
    assert one_bit_more(spec) is None
    assert one_bit_more(Spec(NF4, per_group(32), scale=HALF)) is None


def test_half_the_group_halves_the_columns_of_a_tile() -> None:
    assert half_the_group(INT4, 64) == Spec(Int(4), per_group(16), scale=HALF)
    assert half_the_group(Spec(Int(4), PER_ROW, scale=HALF), 64) == Spec(Int(4), Tile(1, 32), scale=HALF)


def test_tiles_that_cannot_be_halved_are_left_out() -> None:
    assert half_the_group(Spec(Int(4), Tile(1, 5), scale=HALF), 65) is None
    assert half_the_group(Spec(Int(4), PER_TENSOR, scale=HALF), 64) is None
    assert half_the_group(Spec(Float(FloatKind.FLOAT16)), 64) is None
    nested = Spec(Int(4), per_group(16), scale=Spec(Int(6, signed=False), Tile(1, 4), scale=HALF))
    assert half_the_group(nested, 64) is None


def test_both_remedies_are_estimated_from_rounding_to_nearest_with_their_bits() -> None:
    entry = remedies(weight(), INT4, torch.ones(64), 0.02)
    assert 0.02 / 8 < entry["loss_one_bit_more"] < 0.02 / 2.5
    assert entry["loss_one_bit_more"] < entry["loss_half_group"] < 0.02
    assert entry["bits_one_bit_more"] == INT4.bits((8, 64)) + 8 * 64
    assert entry["bits_half_group"] == INT4.bits((8, 64)) + 8 * 2 * 16


def test_a_weight_that_loses_nothing_needs_no_remedy() -> None:
    assert remedies(torch.zeros(8, 64), INT4, None, 0.0) == {}


def test_columns_count_as_much_as_their_inputs() -> None:
    loud = torch.ones(64)
    loud[:32] = 0
    uneven = weight()
    uneven[:, :32] *= 100  # its first group loses most, but nothing reads it
    spec = Spec(Int(4), PER_ROW, scale=HALF)
    plain, silenced = remedies(uneven, spec, None, 1.0), remedies(uneven, spec, loud, 1.0)
    assert silenced["loss_half_group"] < 0.01 < plain["loss_half_group"]


def test_a_distribution_counts_every_value() -> None:
    found = distribution(weight())
    assert found is not None and sum(found["counts"]) == 8 * 64 and len(found["counts"]) == 64
    assert (found["low"], found["high"]) == (float(weight().min()), float(weight().max()))


def test_equal_values_and_none_at_all_have_a_distribution_or_none() -> None:
    found = distribution(torch.full((5,), 3.0))
    assert found is not None and sum(found["counts"]) == 5 and found["low"] < 3 < found["high"]
    assert distribution(torch.empty(0)) is None


def test_the_grid_is_that_of_the_tile_with_the_median_scale() -> None:
    scale = torch.tensor([[1.0, 10.0, 3.0]])
    assert grid(Spec(Int(2), per_group(4), scale=HALF), scale, None) == [-6.0, -3.0, 0.0, 3.0]
    assert grid(asymmetric(2, 4), scale, torch.tensor([[0.0, 0.0, 1.0]])) == [-3.0, 0.0, 3.0, 6.0]
    assert grid(Spec(Int(8), PER_ROW, scale=HALF), scale, None) == []
    assert grid(Spec(Int(2), PER_TENSOR, scale=HALF), None, None) == []
