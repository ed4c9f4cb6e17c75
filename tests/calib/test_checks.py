"""Calibration samples before they run: what is found in them, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from bitwright.calib import Finding, InputCheck, Problem

IMAGE = {"image": (None, 3, 8, 8)}


def checked(*batches: torch.Tensor, expected: dict[str, tuple[int | None, ...] | None] = IMAGE) -> tuple[Finding, ...]:
    check, first = InputCheck(expected), 0
    for batch in batches:
        check.add({"image": batch}, first)
        first += len(batch)
    return check.findings()


def pictures(count: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def problems(findings: tuple[Finding, ...]) -> list[Problem]:
    return [finding.problem for finding in findings]


def test_good_samples_have_no_findings() -> None:
    assert checked(pictures()) == ()
    assert checked(*pictures().split(7)) == ()


def test_no_samples_at_all_is_fatal() -> None:
    (found,) = checked()
    assert found.problem is Problem.NONE_AT_ALL and found.problem.is_fatal


def test_few_samples_are_counted() -> None:
    (found,) = checked(pictures(5))
    assert found.problem is Problem.TOO_FEW and found.amount == 5 and not found.problem.is_fatal


def test_duplicates_are_named_across_batches() -> None:
    values = pictures()
    values[30], values[35], values[36] = values[2], values[4], values[2]
    (found,) = checked(*values.split(16))
    assert found.problem is Problem.DUPLICATE and found.samples == (30, 35, 36)
    assert "30 is 2, 35 is 4, 36 is 2" in found.text


def test_samples_that_differ_in_one_input_are_no_duplicates() -> None:
    check = InputCheck({"image": None, "time": (None,)})
    check.add({"image": pictures(1).expand(40, 3, 8, 8), "time": torch.arange(40)}, 0)
    assert Problem.DUPLICATE not in problems(check.findings())


def test_equal_bytes_of_other_shape_or_type_are_no_duplicates() -> None:
    check = InputCheck({"x": None})
    for first, x in enumerate((torch.zeros(1, 2, 4), torch.zeros(1, 4, 2), torch.zeros(1, 2, 4, dtype=torch.int32))):
        check.add({"x": x}, first)
    assert Problem.DUPLICATE not in problems(check.findings())


def test_constant_channels_are_named() -> None:
    values = pictures()
    values[:, 1] = 0.25
    for batches in ((values,), values.split(9)):
        (found,) = checked(*batches)
        assert found.problem is Problem.CONSTANT and found.tensor == "image" and found.amount == 1
        assert "channels (axis 1) 1 of 3" in found.text


def test_a_channel_that_is_constant_in_each_sample_but_differs_between_them_is_not_constant() -> None:
    values = pictures()
    values[:, 1] = torch.arange(40.0)[:, None, None]
    assert checked(values) == () and checked(*values.split(1)) == ()


def test_constant_integers_are_no_finding() -> None:
    check = InputCheck({"ids": (None, 16), "mask": (None, 16)})
    ids = torch.randint(0, 99, (40, 16), generator=torch.Generator().manual_seed(0))
    check.add({"ids": ids, "mask": torch.ones(40, 16, dtype=torch.int64)}, 0)
    assert check.findings() == ()


def test_values_that_are_not_finite_are_fatal_come_first_and_name_their_samples() -> None:
    values = pictures(20)
    values[3, 0, 0, 0], values[17, 2, 7, 7] = math.nan, math.inf
    found = checked(*values.split(6))
    assert problems(found) == [Problem.NOT_FINITE, Problem.TOO_FEW]
    assert found[0].samples == (3, 17) and "samples 3, 17" in found[0].text and found[0].problem.is_fatal


def test_shapes_that_vary_are_listed_with_a_sample_of_each() -> None:
    parts = [torch.randn(20, 3, 8, width) for width in (8, 10)]
    (found,) = checked(*parts, expected={"image": (None, 3, 8, None)})
    assert found.problem is Problem.SHAPES_VARY and found.samples == (0, 20)
    assert "(3, 8, 8) (sample 0), (3, 8, 10) (sample 20)" in found.text


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"picture": pictures()}, r"inputs are \['image'\]; the calibration data has \['picture'\]"),
        ({}, "the calibration data has"),
        (
            {"image": torch.randn(4, 8, 8, 3)},
            r"image: .*\(4, 8, 8, 3\) does not fit the input, which is any x 3 x 8 x 8",
        ),
        ({"image": torch.randn(3, 8, 8)}, "does not fit the input"),
        ({"image": torch.randn(0, 3, 8, 8)}, "image: .* is empty; axis 0 counts the samples"),
    ],
)
def test_what_does_not_fit_the_network_is_refused_by_name(batch: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InputCheck(IMAGE).add(batch, 0)


def test_inputs_of_unlike_sample_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="as many samples each"):
        InputCheck({"a": None, "b": None}).add({"a": torch.zeros(3, 1), "b": torch.zeros(4, 1)}, 0)


def test_a_network_of_fixed_batch_size_takes_any_number_of_samples() -> None:
    assert checked(pictures(), expected={"image": (1, 3, 8, 8)}) == ()
