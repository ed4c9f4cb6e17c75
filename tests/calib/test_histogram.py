"""The histogram: the same bits under any batching, order and split, and the same counts as one value at a time."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from bitwright.calib import Histogram
from bitwright.calib.histogram import BINS, NARROWEST


def of(values: torch.Tensor, first: int = 0) -> Histogram:
    one = Histogram()
    one.add(values, first)
    return one


def numbers(kind: str, samples: int = 24, seed: int = 0) -> torch.Tensor:
    """Values of unlike kinds, float32 [samples, 50], the widest ones last."""
    torch.manual_seed(seed)
    x = torch.randn(samples, 50)
    match kind:
        case "normal":
            return x
        case "heavy":
            return x.sort(0).values * torch.logspace(-6, 6, samples)[:, None]
        case "rectified":
            return x.relu()
        case "negative":
            return -x.abs()
        case "integers":
            return (x * 40).round()
        case "zeros":
            return torch.zeros(samples, 50)
        case "constant":
            return torch.full((samples, 50), -3.7)
        case "subnormal":
            return x * 1e-40
        case "huge":
            return torch.where(x > 0, x * 1e30, x * 1e-30)
        case "extreme":
            return torch.where(x.abs() > 2, torch.sign(x) * torch.finfo(torch.float32).max, x * 1e-44)
    raise AssertionError(kind)


KINDS = [
    "normal",
    "heavy",
    "rectified",
    "negative",
    "integers",
    "zeros",
    "constant",
    "subnormal",
    "huge",
    "extreme",
]


def one_by_one(values: torch.Tensor) -> tuple[int, dict[int, int]]:
    """Exponent and counts by bin from the definition, in exact fractions."""
    exact = [Fraction(v) for v in values.flatten().tolist()]
    low, high = min(0, *exact), max(0, *exact)

    def place(value: Fraction, width: Fraction) -> int:
        return math.floor(value / width) if value >= 0 else -1 - math.floor(-value / width)

    exponent = NARROWEST
    while place(high, Fraction(2) ** exponent) - place(low, Fraction(2) ** exponent) >= BINS:
        exponent += 1
    counts: dict[int, int] = {}
    for value in exact:
        bin_of_value = place(value, Fraction(2) ** exponent)
        counts[bin_of_value] = counts.get(bin_of_value, 0) + 1
    return exponent, counts


def same_bits(one: Histogram, other: Histogram) -> bool:
    """Equal counts, grid, zeros, extremes, and extremes and counts of every sample."""
    a, b = one.to_tensors(), other.to_tensors()
    exact = [0, 1, 2, 5, 6]  # all columns of the samples but the sums
    return (
        torch.equal(a["counts"], b["counts"])
        and torch.equal(a["grid"], b["grid"])
        and torch.equal(a["samples"][:, exact], b["samples"][:, exact])
        and (one.is_empty or (one.low, one.high) == (other.low, other.high))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_counts_equal_one_value_at_a_time(kind: str) -> None:
    values = numbers(kind)
    found = of(values)
    exponent, counts = one_by_one(values)
    assert found.exponent == exponent
    assert {found.first + j: n for j, n in enumerate(found.counts.tolist()) if n} == counts
    assert found.zeros == int((values == 0).sum()) and found.count == values.numel()
    assert (found.low, found.high) == (float(values.min()), float(values.max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_any_order_split_and_merge_gives_the_same_bits(kind: str, seed: int) -> None:
    values = numbers(kind)
    at_once = of(values)
    generator = torch.Generator().manual_seed(seed)
    workers = [Histogram() for _ in range(3)]
    for index in torch.randperm(len(values), generator=generator).tolist():
        shuffled = values[index][torch.randperm(50, generator=generator)]
        cut = int(torch.randint(0, 51, (), generator=generator))
        for part in (shuffled[:cut], shuffled[cut:]):
            workers[int(torch.randint(0, 3, (), generator=generator))].add(part[None], index)
    left, right = Histogram(), Histogram()
    for worker in workers:
        left.merge(worker)
    for worker in reversed(workers):
        worker.merge(right)
        right = worker
    for found in (left, right):
        assert same_bits(found, at_once)
        assert found.mean_square == pytest.approx(at_once.mean_square, rel=1e-12)
        assert abs(found.mean - at_once.mean) <= 1e-12 * math.sqrt(at_once.mean_square)


@pytest.mark.parametrize("kind", ["normal", "rectified", "huge", "extreme"])
def test_batching_whole_samples_gives_the_same_bits(kind: str) -> None:
    values = numbers(kind)
    at_once = of(values)
    for size in (1, 5, 7):
        one = Histogram()
        for first in range(0, len(values), size):
            one.add(values[first : first + size], first)
        assert same_bits(one, at_once)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_equal_exact_fractions(kind: str) -> None:
    values = numbers(kind)
    exact = [Fraction(v) for v in values.flatten().tolist()]
    found = of(values)
    square = float(sum(v * v for v in exact) / len(exact))
    magnitude = float(sum(abs(v) for v in exact) / len(exact))
    assert found.mean_square == pytest.approx(square, rel=1e-12)
    assert abs(found.mean - float(sum(exact) / len(exact))) <= 1e-12 * magnitude


def test_a_mean_that_cancels_is_exact_to_the_mean_magnitude() -> None:
    values = torch.randn(3, 200_000) * 1e3
    values = torch.cat([values, -values + 1e-3])
    found = of(values)
    assert abs(found.mean - math.fsum(values.flatten().tolist()) / values.numel()) < 1e-12 * 800


@pytest.mark.parametrize("kind", ["normal", "heavy", "integers", "huge"])
def test_the_histogram_of_the_negative_is_the_mirror_image(kind: str) -> None:
    values = numbers(kind)
    values[values == 0] = 1.0
    assert torch.equal(of(values).counts, of(-values).counts.flip(0))


def test_at_least_half_of_the_bins_are_in_use_and_never_too_many() -> None:
    for kind in ("normal", "heavy", "rectified", "negative", "huge", "extreme"):
        assert BINS // 2 <= len(of(numbers(kind)).counts) <= BINS, kind


def test_edges_enclose_the_counts_and_are_drawn_in_to_the_data() -> None:
    values = numbers("normal")
    found = of(values)
    edges = found.edges()
    assert (float(edges[0]), float(edges[-1])) == (found.low, found.high)
    inner = torch.histogram(values.double().flatten(), edges).hist  # its last bin is closed, as ours is
    assert torch.equal(inner.long(), found.counts)


def test_a_clipped_activation_has_its_ceiling_as_a_bin_without_width() -> None:
    found = of((torch.randn(4, 1000) * 4).clamp(-1, 6))
    edges = found.edges()
    assert float(edges[-1]) == float(edges[-2]) == 6.0 and float(edges[0]) == float(edges[1]) == -1.0
    assert int(found.counts[-1]) > 100 and int(found.counts[0]) > 100


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_other_types_are_taken_as_float32(dtype: torch.dtype) -> None:
    values = (torch.randn(4, 100).abs() * 20).to(dtype)
    assert same_bits(of(values), of(values.float()))


def test_layout_and_shape_do_not_matter() -> None:
    values = torch.randn(4, 3, 8, 8)
    expected = of(values.reshape(4, -1))
    assert same_bits(of(values.to(memory_format=torch.channels_last)), expected)
    assert same_bits(of(values.permute(0, 3, 1, 2)), expected)
    assert same_bits(of(values[:, 1, 2, ::2]), of(values[:, 1, 2, ::2].clone()))
    assert same_bits(of(values[::2]), of(values[::2].clone()))
    assert same_bits(of(values[:, :1].expand(4, 5, 8, 8)), of(values[:, :1].repeat(1, 5, 1, 1)))
    assert of(torch.tensor(2.5)).high == 2.5


def test_values_across_chunks_are_all_counted() -> None:
    values = torch.randn(3, 150_001)
    found = of(values)
    places = torch.trunc(values.double() / found.width).long() - (values < 0).long() - found.first
    assert torch.equal(torch.bincount(places.flatten(), minlength=len(found.counts)), found.counts)


def test_non_finite_values_are_counted_by_sample_and_are_in_nothing_else() -> None:
    values = numbers("normal", samples=4)
    values[1, 3], values[1, 7], values[3] = math.nan, math.inf, -math.inf
    found = of(values, first=10)
    clean = Histogram()
    clean.add(values[:1], 10)
    clean.add(values[1][values[1].isfinite()][None], 11)
    clean.add(values[2:3], 12)
    assert found.samples.nonfinite == {11: 2, 13: 50}
    assert torch.equal(found.counts, clean.counts) and found.count == 148
    assert found.mean == clean.mean and found.mean_square == clean.mean_square
    assert torch.equal(found.samples.extremes(), clean.samples.extremes())
    assert found.samples.indices == [10, 11, 12, 13]


def test_float64_beyond_float32_is_counted_as_not_finite() -> None:
    assert of(torch.tensor([[1e300, 1.0]], dtype=torch.float64)).samples.nonfinite == {0: 1}


def test_a_histogram_without_finite_values_says_what_it_saw() -> None:
    with pytest.raises(ValueError, match="no finite value was seen: none at all"):
        Histogram().low
    damaged = of(torch.full((2, 3), math.nan), first=5)
    with pytest.raises(ValueError, match=r"only NaN or infinite ones, in samples \[5, 6\]"):
        damaged.edges()
    assert damaged.count == 0 and damaged.is_empty


def test_complex_values_are_refused() -> None:
    with pytest.raises(ValueError, match="real numbers"):
        of(torch.zeros(2, 2, dtype=torch.complex64))


def test_an_empty_histogram_and_empty_values_change_nothing() -> None:
    one = of(numbers("normal"))
    before = one.to_tensors()
    one.merge(Histogram())
    one.add(torch.zeros(0, 50), 99)
    one.add(torch.zeros(3, 0), 99)
    after = one.to_tensors()
    assert all(torch.equal(before[name], after[name]) for name in before)
    empty = Histogram()
    empty.merge(one)
    assert same_bits(empty, one)


def test_merging_leaves_the_other_as_it_was() -> None:
    one, other = of(numbers("huge")), of(numbers("normal"), first=24)
    before = other.to_tensors()
    one.merge(other)
    one.add(numbers("normal"), 24)
    assert all(torch.equal(value, other.to_tensors()[name]) for name, value in before.items())


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_give_the_same_histogram_back(kind: str) -> None:
    one = of(numbers(kind))
    back = Histogram.from_tensors(one.to_tensors())
    assert same_bits(one, back) and (back.mean, back.mean_square) == (one.mean, one.mean_square)
    more = numbers("heavy", seed=1)
    one.add(more, 30)
    back.add(more, 30)
    assert same_bits(one, back)


def test_tensors_of_an_empty_or_damaged_histogram_come_back_too() -> None:
    for one in (Histogram(), of(torch.full((1, 3), math.nan))):
        back = Histogram.from_tensors(one.to_tensors())
        assert back.is_empty and back.samples.nonfinite == one.samples.nonfinite


@pytest.mark.parametrize("name", ["counts", "grid", "samples"])
def test_tensors_that_contradict_each_other_are_refused(name: str) -> None:
    tensors = of(numbers("normal")).to_tensors()
    tensors[name] = tensors[name] + 1 if name != "samples" else tensors[name][1:]
    with pytest.raises(ValueError, match="not a histogram"):
        Histogram.from_tensors(tensors)
