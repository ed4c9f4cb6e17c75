"""One exact histogram of everything that a tensor was during calibration; every range rule reads it.

Bins are 2**exponent wide and their edges are multiples of that width, so zero is an edge. The exponent is the smallest
for which at most 4096 bins reach from the smallest value (or zero) to the largest (or zero); at least half of them are
then in use. When a larger value arrives, neighbouring bins are joined in pairs. The bin of a value at twice the width
is half its bin, exactly, in floating point too. So counts, smallest and largest value depend on the set of values
alone: on no batching, order or split. That makes the histogram a monoid of bounded size: workers merge theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from bitwright.calib.counting import count_bins
from bitwright.calib.samples import Samples, damaged_row, extremes_of, nothing_seen, rows_of, sample_rows

BINS = 4096
NARROWEST = -126  # exponent of the smallest normal float32: a quantizer with finer steps has a subnormal scale


@final
class Histogram:
    """Counts of values on a dyadic grid, their exact extremes, moments to 1e-12, and the extremes of each sample.

    Bin j holds [j, j + 1) widths for j >= 0, and (j, j + 1] widths for j < 0: mirror images, so that the histogram of
    -x is that of x reversed. Exact zeros are in bin 0 and also counted apart. Values are taken as float32, whatever
    they come in. NaN and infinities are counted per sample and are in nothing else. Cost: about 2 ns per value.
    """

    __slots__ = ("_counts", "_exponent", "_first", "_high", "_low", "_zeros", "samples")

    def __init__(self) -> None:
        self.samples = Samples()
        self._low, self._high = math.inf, -math.inf
        self._zeros = 0
        self._exponent, self._first = NARROWEST, 0
        self._counts = torch.zeros(1, dtype=torch.int64)

    def add(self, values: Shaped[Tensor, "..."], first: int) -> None:
        """Count these values in. Axis 0 runs over the samples `first`, `first` + 1, ...; a sample may come in parts.

        A tensor without axes is one sample.
        """
        rows = rows_of(values)
        if rows is None:
            return
        ends = extremes_of(rows)
        if bool((ends[0].isfinite() & ends[1].isfinite()).all()):
            self._add_finite(rows, first, ends)
            return
        for index, row in enumerate(rows, first):
            kept = row[row.isfinite()][None]
            self.samples.add(damaged_row(index, row.numel() - kept.numel()))
            if kept.numel():
                self._add_finite(kept, index, extremes_of(kept))

    def _add_finite(self, rows: Float[Tensor, "samples n"], first: int, ends: tuple[Tensor, Tensor]) -> None:
        low, high = float(ends[0].min()), float(ends[1].max())
        self._grow(low, high)
        self.samples.add(sample_rows(rows, first, ends))
        counts, zeros = count_bins(rows.view(-1), self._exponent, self._first, len(self._counts))
        self._counts += counts
        self._zeros += zeros

    def _grow(self, low: float, high: float) -> None:
        """Make the grid reach from `low` to `high` too."""
        self._low, self._high = min(low, self._low), max(high, self._high)
        first, last, exponent = _grid(self._low, self._high, self._exponent)
        if (first, last, exponent) == (self._first, self._first + len(self._counts) - 1, self._exponent):
            return
        counts = torch.zeros(last - first + 1, dtype=torch.int64)
        counts.index_add_(0, self._places(exponent) - first, self._counts)
        self._counts, self._first, self._exponent = counts, first, exponent

    def _places(self, exponent: int) -> Int64[Tensor, "bins"]:
        """Where this histogram's bins lie on a grid that is coarser or equal."""
        return torch.arange(self._first, self._first + len(self._counts)) >> (exponent - self._exponent)

    def merge(self, other: Histogram) -> None:
        """Count in what another histogram has seen."""
        self.samples.merge(other.samples)
        if other.is_empty:
            return
        self._grow(other._low, other._high)
        self._counts.index_add_(0, other._places(self._exponent) - self._first, other._counts)
        self._zeros += other._zeros

    @property
    def is_empty(self) -> bool:
        """Whether no finite value was seen."""
        return self._high < self._low

    @property
    def low(self) -> float:
        """The smallest finite value; raises ValueError where there is none, as everything below does."""
        self._want_values()
        return self._low

    @property
    def high(self) -> float:
        """The largest finite value."""
        self._want_values()
        return self._high

    @property
    def count(self) -> int:
        """How many finite values were seen; 0 is no error here."""
        return int(self._counts.sum())

    @property
    def zeros(self) -> int:
        """How many values were exactly zero."""
        return self._zeros

    @property
    def mean(self) -> float:
        """The mean, to 1e-12 of the mean magnitude."""
        self._want_values()
        return self.samples.total / self.count

    @property
    def mean_square(self) -> float:
        """The second moment about zero, to 1e-12 of itself."""
        self._want_values()
        return self.samples.square / self.count

    @property
    def deviation(self) -> float:
        """The standard deviation; 0 where all values are equal."""
        return math.sqrt(max(0.0, self.mean_square - self.mean**2)) if self._low < self._high else 0.0

    @property
    def width(self) -> float:
        """The width of a bin, a power of two."""
        return math.ldexp(1.0, self._exponent)

    @property
    def exponent(self) -> int:
        """The binary logarithm of the width."""
        return self._exponent

    @property
    def first(self) -> int:
        """The number of the lowest bin, at most 0: its lower edge is `first` widths."""
        return self._first

    @property
    def counts(self) -> Int64[Tensor, "bins"]:
        """How many values each bin holds, from bin `first` on; the values that are exactly zero included."""
        return self._counts.clone()

    def coarser(self, exponent: int) -> tuple[int, Int64[Tensor, "bins"]]:
        """First bin and counts on the grid of bins 2**exponent wide, which is not finer than this one."""
        assert exponent >= self._exponent
        places = self._places(exponent)
        counts = torch.zeros(int(places[-1] - places[0]) + 1, dtype=torch.int64)
        return int(places[0]), counts.index_add_(0, places - places[0], self._counts)

    def edges(self) -> Float64[Tensor, "edges"]:
        """The ends of the bins: one more than there are bins, ascending, drawn in to [low, high].

        A bin that holds values and has no width holds equal ones, exactly there.
        """
        self._want_values()
        edges = torch.arange(self._first, self._first + len(self._counts) + 1, dtype=torch.float64) * self.width
        return edges.clamp(self._low, self._high)

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything, as tensors that a file can hold: `counts`, `grid` (exponent, first bin, zeros) and `samples`."""
        grid = torch.tensor([self._exponent, self._first, self._zeros], dtype=torch.int64)
        return {"counts": self._counts.clone(), "grid": grid, "samples": self.samples.table().clone()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Histogram:
        """The histogram that `to_tensors` took apart; raises ValueError where the tensors contradict each other."""
        made = cls()
        made.samples.add(tensors["samples"].double())
        made._exponent, made._first, made._zeros = tensors["grid"].tolist()
        made._counts = tensors["counts"].to(torch.int64)
        extremes = made.samples.extremes()
        if len(extremes):
            made._low, made._high = float(extremes[:, 0].min()), float(extremes[:, 1].max())
        last = made._first + len(made._counts) - 1
        grid = (0, 0, NARROWEST) if made.is_empty else _grid(made._low, made._high, NARROWEST)
        if (made._first, last, made._exponent) != grid or made.count != made.samples.count:
            raise ValueError(
                "these tensors are not a histogram: its counts and its samples disagree "
                f"({made.count} and {made.samples.count} values); delete the cached file and calibrate again"
            )
        return made

    def _want_values(self) -> None:
        if self.is_empty:
            raise ValueError(nothing_seen(self.samples))


def _bin(value: float, exponent: int) -> int:
    """The number of the bin that a float32 falls in; exact, since float64 holds the quotient."""
    return int(math.ldexp(value, -exponent)) - (value < 0)


def _grid(low: float, high: float, exponent: int) -> tuple[int, int, int]:
    """First bin, last bin and exponent of the finest grid, not below `exponent`, that reaches low, zero and high."""
    low, high = min(low, 0.0), max(high, 0.0)
    if low < high:
        exponent = max(
            exponent, math.frexp(max(-low, high))[1] - 12
        )  # any finer and the longer side alone has too many
    while _bin(high, exponent) - _bin(low, exponent) >= BINS:
        exponent += 1
    return _bin(low, exponent), _bin(high, exponent), exponent
