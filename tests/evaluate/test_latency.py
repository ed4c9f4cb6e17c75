"""Speedups from paired timings, on a clock that the test turns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.evaluate.latency import Timing, batch_text, latency, time_pairs


class Clock:
    """A clock that only moves when something runs. `order` says what ran."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, ""

    def __call__(self) -> float:
        return self.now

    def runs(self, name: str, seconds: float):
        def run() -> None:
            self.now += seconds
            self.order += name

        return run


def test_both_run_in_turn_and_each_pair_starts_with_the_other() -> None:
    clock = Clock()
    timing = Timing(seconds=0, least=4, most=4, shortest=0)
    pairs = time_pairs(clock.runs("a", 1.0), clock.runs("b", 3.0), timing, clock)
    assert clock.order == "aabb" + "abba" * 2  # each twice before, to learn how long it takes
    torch.testing.assert_close(pairs, torch.tensor([[1.0, 3.0]] * 4, dtype=torch.float64))


def test_a_short_run_is_repeated_within_one_timing_and_given_as_one() -> None:
    clock = Clock()
    timing = Timing(seconds=0, least=1, most=1, shortest=1.0)
    pairs = time_pairs(clock.runs("a", 0.125), clock.runs("b", 4.0), timing, clock)
    assert clock.order.count("b") == 3 and clock.order.count("a") >= 2 + 8
    assert pairs.tolist() == [[0.125, 4.0]]


@pytest.mark.parametrize(("seconds", "pairs"), [(0.0, 5), (20.0, 10), (1e9, 50)])
def test_pairs_are_added_until_the_time_is_up_within_bounds(seconds: float, pairs: int) -> None:
    clock = Clock()
    timing = Timing(seconds, least=5, most=50, shortest=0)
    assert len(time_pairs(clock.runs("a", 1.0), clock.runs("b", 1.0), timing, clock)) == pairs


@pytest.mark.parametrize(("second", "pairs"), [(1.0, 12), (2.0, 8), (10.0, 5), (100.0, 5)])
def test_of_slow_runs_there_are_fewer_pairs_but_five(second: float, pairs: int) -> None:
    clock = Clock()
    timing = Timing(4.0, patience=30.0, least=12, most=200, shortest=0)
    assert len(time_pairs(clock.runs("a", second), clock.runs("b", second), timing, clock)) == pairs


def test_of_many_shapes_four_are_named() -> None:
    assert batch_text([[1, 3], [], [2]]) == "1x3, scalar, 2"
    assert batch_text([[place] for place in range(7)]) == "0, 1, 2, 3 and 3 more"


def test_the_speedup_is_the_ratio_of_medians_and_its_interval_a_bootstrap_of_pairs() -> None:
    random = np.random.default_rng(3)
    shared = random.lognormal(0, 0.5, 40)
    pairs = np.stack([shared * random.lognormal(0, 0.1, 40), 2 * shared * random.lognormal(0, 0.1, 40)], axis=1)
    found = latency(torch.from_numpy(pairs), "fp32", "1x3")
    drawn = [pairs[random.integers(0, 40, 40)] for _ in range(20000)]
    ratios = [np.median(one[:, 1]) / np.median(one[:, 0]) for one in drawn]
    assert found.speedup == pytest.approx(np.median(pairs[:, 1]) / np.median(pairs[:, 0]))
    assert [found.low, found.high] == pytest.approx(np.percentile(ratios, [2.5, 97.5]), rel=0.03)
    assert found.milliseconds == pytest.approx(1e3 * np.median(pairs[:, 0])) and found.pairs == 40


def test_the_interval_is_the_same_every_time() -> None:
    pairs = torch.rand(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    assert latency(pairs, "fp32", "1") == latency(pairs, "fp32", "1")


@pytest.mark.parametrize(
    ("ours", "theirs", "is_slower", "is_faster"), [(1, 2, False, True), (2, 1, True, False), (1, 1, False, False)]
)
def test_slower_and_faster_are_only_said_beyond_doubt(
    ours: float, theirs: float, is_slower: bool, is_faster: bool
) -> None:
    found = latency(torch.tensor([[ours, theirs]] * 5, dtype=torch.float64), "fp32", "1")
    assert (found.is_slower, found.is_faster) == (is_slower, is_faster)


def test_shapes_are_written_as_a_person_does() -> None:
    assert batch_text([(4, 3, 12), (), (7,)]) == "4x3x12, scalar, 7"
