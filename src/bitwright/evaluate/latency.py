"""How much faster one thing runs than another, on this machine, with an interval that says how sure that is.

Both run in turn, so that whatever else the machine does meets both alike, and each pair starts with the other one. A
run too short for the clock is repeated within one timing. The speedup is the ratio of the two medians; its interval
comes from drawing whole pairs with replacement, which keeps what disturbed both of a pair together.

Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile intervals).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import final

import torch
from jaxtyping import Float64
from torch import Tensor

from bitwright.evaluate.bootstrap import LEVEL, RESAMPLES

Clock = Callable[[], float]
_FEWEST = 5  # pairs
_NAMED = 4  # shapes of a batch


@final
@dataclass(frozen=True, slots=True)
class Timing:
    """How long to measure: pairs are added until `seconds` have passed, at least `least` and at most `most` of them.

    Of runs so slow that `least` pairs take longer than `patience` seconds there are fewer, but five. `shortest`:
    seconds that one timing shall last; shorter runs are repeated within it.
    """

    seconds: float = 4.0
    patience: float = 30.0
    least: int = 12
    most: int = 200
    shortest: float = 0.002


@final
@dataclass(frozen=True, slots=True)
class Latency:
    """One comparison. `batch`: the shapes of what was fed. `speedup` above 1: the quantized file is faster.

    `low` and `high`: the 95% interval of the speedup. `pairs`: how many timings of each.
    """

    against: str
    batch: str
    milliseconds: float
    milliseconds_against: float
    speedup: float
    low: float
    high: float
    pairs: int

    @property
    def is_slower(self) -> bool:
        """Whether it is slower beyond doubt."""
        return self.high < 1

    @property
    def is_faster(self) -> bool:
        """Whether it is faster beyond doubt."""
        return self.low > 1


def time_pairs(
    first: Callable[[], object], other: Callable[[], object], timing: Timing = Timing(), clock: Clock = perf_counter
) -> Float64[Tensor, "pairs 2"]:
    """Seconds of one run of each, pair by pair; both run once before, for what is only done the first time."""
    repeats = [_repeats(run, timing.shortest, clock) for run in (first, other)]
    found: list[tuple[float, float]] = []
    start = clock()
    while len(found) < timing.most:
        spent = clock() - start
        wanted = timing.least if spent < timing.patience else min(_FEWEST, timing.least)
        if spent >= timing.seconds and len(found) >= wanted:
            break
        if len(found) % 2 == 0:
            ours = _time(first, repeats[0], clock)
            theirs = _time(other, repeats[1], clock)
        else:
            theirs = _time(other, repeats[1], clock)
            ours = _time(first, repeats[0], clock)
        found.append((ours, theirs))
    return torch.tensor(found, dtype=torch.float64)


def latency(pairs: Float64[Tensor, "pairs 2"], against: str, batch: str, seed: int = 0) -> Latency:
    """The comparison that paired seconds (the quantized one first) amount to."""
    ours, theirs = pairs.quantile(0.5, dim=0).tolist()
    draws = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(pairs), (RESAMPLES, len(pairs)), generator=draws)
    medians = pairs[picked].quantile(0.5, dim=1)
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.quantile(medians[:, 1] / medians[:, 0], ends).tolist()
    return Latency(against, batch, ours * 1e3, theirs * 1e3, theirs / ours, low, high, len(pairs))


def batch_text(shapes: Sequence[Sequence[int]]) -> str:
    """Shapes as a person writes them, the first four."""
    said = ["x".join(str(size) for size in shape) or "scalar" for shape in shapes]
    return ", ".join(said[:_NAMED]) + (f" and {len(said) - _NAMED} more" if len(said) > _NAMED else "")


def _repeats(run: Callable[[], object], shortest: float, clock: Clock) -> int:
    """How many runs make up one timing of at least this many seconds."""
    run()
    once = _time(run, 1, clock)
    return max(1, min(1000, round(shortest / max(once, 1e-9) + 0.5)))


def _time(run: Callable[[], object], repeats: int, clock: Clock) -> float:
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats
