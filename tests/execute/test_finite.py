"""Which value and which sample first went wrong."""

from __future__ import annotations

import pytest
import torch

from bitwright.execute.finite import NotFiniteError, check_finite


def test_finite_values_and_integers_pass() -> None:
    check_finite({"a": torch.zeros(3, 2), "b": torch.tensor([1, 2]), "c": torch.tensor(1.0)})


@pytest.mark.parametrize(("number", "word"), [(float("nan"), "NaN"), (float("-inf"), "infinity")])
def test_the_first_value_and_its_first_sample_are_named(number: float, word: str) -> None:
    values = {"a": torch.zeros(4, 2, 2), "b": torch.zeros(4, 3), "c": torch.zeros(4)}
    values["b"][2, 1] = values["b"][3, 0] = values["c"][0] = number
    with pytest.raises(NotFiniteError, match=f"b: {word} in sample 18") as caught:
        check_finite(values, first_sample=16)
    assert (caught.value.value, caught.value.sample) == ("b", 18)


def test_a_scalar_that_is_nan_is_found() -> None:
    with pytest.raises(NotFiniteError, match="a: NaN in sample 0"):
        check_finite({"a": torch.tensor(float("nan"))})
