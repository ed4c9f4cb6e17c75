"""Was the calibration data like the data that comes later? What histograms tell after the pass.

Each tensor is compared with itself: the first half of the samples with the second, and the calibration samples with
held-out ones or with samples from where the network will be used. Differences count only where they are large beside
the scatter from sample to sample, so that few samples do not raise false alarms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch

from bitwright.calib.checks import Finding, Problem
from bitwright.calib.density import outside
from bitwright.calib.extremes import Seen
from bitwright.calib.histogram import Histogram

_SURE = 4.0  # standard errors: of some hundred tensors without any difference, one in a hundred runs shows one
_DRIFT = 0.1  # of the mean width of a sample's range
_OUTSIDE = 1e-3  # of the values, on top of ten times what the range was meant to clip
_DISTANCE = 0.1  # standard deviations
_FEWEST = 8  # samples in each half, to know their scatter


def check_histograms(histograms: Mapping[str, Seen]) -> tuple[Finding, ...]:
    """NaN and infinite activations by tensor and sample, constant tensors, and ranges that drift, tensor by tensor.

    Where a mapping is in running order, the first tensor with NaN is where they begin.
    """
    found = []
    for name, histogram in histograms.items():
        if bad := histogram.samples.nonfinite:
            samples = tuple(bad)
            text = f"{name}: {sum(bad.values())} NaN or infinite values in samples {', '.join(map(str, samples[:8]))}"
            found.append(Finding(Problem.NOT_FINITE, name, text, samples, sum(bad.values())))
        if histogram.is_empty:
            continue
        if histogram.low == histogram.high:
            text = (
                f"{name}: every value is {histogram.low:g}; nothing that the network computes here depends on its input"
            )
            found.append(Finding(Problem.CONSTANT, name, text, amount=1))
        found += _drift(name, histogram)
    return tuple(found)


def _drift(name: str, histogram: Seen) -> list[Finding]:
    """Whether samples of the second half reach further, or less far, than those of the first."""
    extremes = histogram.samples.extremes()
    half = len(extremes) // 2
    if half < _FEWEST:
        return []
    first, second = extremes[:half], extremes[half:]
    error = (first.var(0) / len(first) + second.var(0) / len(second)).sqrt()
    change = second.mean(0) - first.mean(0)
    width = float((extremes[:, 1] - extremes[:, 0]).mean()) or histogram.high - histogram.low
    moved = (change.abs() > _SURE * error) & (change.abs() > _DRIFT * width)
    if not bool(moved.any()):
        return []
    (a, b), (c, d) = first.mean(0).tolist(), second.mean(0).tolist()
    text = (
        f"{name}: a sample's values lie between {a:.4g} and {b:.4g} in the first half of the samples, between {c:.4g} "
        f"and {d:.4g} in the second (means); shuffle the samples, and look for two kinds of data among them"
    )
    return [Finding(Problem.DRIFT, name, text, amount=float(change.abs().max()) / width)]


@final
@dataclass(frozen=True, slots=True)
class Coverage:
    """How other samples of a tensor compare with those that its range was made from.

    `outside` and `calibrated_outside`: the parts (0 to 1) of the other values and of the calibrated ones that the range
    clips. `distance`: between the two distributions, in standard deviations of the calibrated one; `scatter`: what that
    distance comes to by chance (one standard error).
    """

    tensor: str
    low: float
    high: float
    outside: float
    calibrated_outside: float
    distance: float
    scatter: float


def coverage(
    calibrated: Mapping[str, Histogram], ranges: Mapping[str, tuple[float, float]], other: Mapping[str, Histogram]
) -> tuple[Coverage, ...]:
    """Every tensor that has a range, in the order of `ranges`; one of which either side saw no values is left out."""
    found = []
    for name, (low, high) in ranges.items():
        for side, held in (("calibrated", calibrated), ("other", other)):
            if name not in held:
                raise ValueError(f"{name}: there is no histogram of the {side} samples; collect it in the same pass")
        one, two = calibrated[name], other[name]
        if one.is_empty or two.is_empty:
            continue
        parts = outside(two, low, high), outside(one, low, high)
        size = one.deviation or max(abs(one.low), math.ldexp(1.0, -126))
        scatter = math.hypot(_mean_error(one), _mean_error(two)) / size
        found.append(Coverage(name, low, high, *parts, wasserstein(one, two) / size, scatter))
    return tuple(found)


def mismatches(coverages: tuple[Coverage, ...]) -> tuple[Finding, ...]:
    """Tensors whose other samples leave the range or are distributed differently, the worst of each kind first."""
    out, far = [], []
    for held in coverages:
        if held.outside > _OUTSIDE + 10 * held.calibrated_outside:
            text = (
                f"{held.tensor}: {held.outside:.2%} of the values lie outside [{held.low:.4g}, {held.high:.4g}], "
                f"{held.calibrated_outside:.2%} in calibration; add samples like these to the calibration data"
            )
            out.append(Finding(Problem.OUTSIDE, held.tensor, text, amount=held.outside))
        if held.distance > _DISTANCE + _SURE * held.scatter:
            text = (
                f"{held.tensor}: values are {held.distance:.2g} standard deviations away from those in calibration "
                "(Wasserstein distance); is the preprocessing the same?"
            )
            far.append(Finding(Problem.DISTANT, held.tensor, text, amount=held.distance))
    worst = [sorted(found, key=lambda finding: -finding.amount) for found in (out, far)]
    return tuple(worst[0] + worst[1])


def wasserstein(one: Histogram, other: Histogram) -> float:
    """How far values must be moved on average to turn one distribution into the other, to the width of a bin.

    Source: the area between the two cumulative distributions (Vallender 1974).
    """
    exponent = max(one.exponent, other.exponent)
    grids = [held.coarser(exponent) for held in (one, other)]
    start = min(first for first, _ in grids)
    stop = max(first + len(counts) for first, counts in grids)
    parts = torch.zeros(2, stop - start, dtype=torch.float64)
    for row, (first, counts) in zip(parts, grids, strict=True):
        row[first - start : first - start + len(counts)] = counts / counts.sum()
    return float((parts[0] - parts[1]).cumsum(0).abs().sum()) * math.ldexp(1.0, exponent)


def _mean_error(histogram: Histogram) -> float:
    """The standard error of the mean, from the scatter of the samples' means; infinite for a single sample."""
    means = histogram.samples.means()
    return float(means.std()) / math.sqrt(len(means)) if len(means) > 1 else math.inf
