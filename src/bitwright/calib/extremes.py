"""The extremes of every sample of a tensor, without a histogram: what rules read that only ask how far values reach.

Two passes over the values instead of a dozen. Like a histogram's, what is kept depends on the samples alone.
"""

from __future__ import annotations

from typing import final

from jaxtyping import Shaped
from torch import Tensor

from bitwright.calib.histogram import Histogram
from bitwright.calib.samples import Samples, bounded_rows, damaged_row, extremes_of, nothing_seen, rows_of


@final
class Extremes:
    """The exact extremes of each sample, and how many of its values were not finite. Cost: about 0.3 ns per value."""

    __slots__ = ("samples",)

    def __init__(self) -> None:
        self.samples = Samples()

    def add(self, values: Shaped[Tensor, "..."], first: int) -> None:
        """Take these values in; see `Histogram.add`."""
        rows = rows_of(values)
        if rows is None:
            return
        ends = extremes_of(rows)
        if bool((ends[0].isfinite() & ends[1].isfinite()).all()):
            self.samples.add(bounded_rows(rows, first, ends))
            return
        for index, row in enumerate(rows, first):
            kept = row[row.isfinite()][None]
            self.samples.add(damaged_row(index, row.numel() - kept.numel()))
            if kept.numel():
                self.samples.add(bounded_rows(kept, index, extremes_of(kept)))

    def merge(self, other: Extremes) -> None:
        """Take in what another has seen."""
        self.samples.merge(other.samples)

    @property
    def is_empty(self) -> bool:
        """Whether no finite value was seen."""
        return len(self.samples.extremes()) == 0

    @property
    def low(self) -> float:
        """The smallest finite value; raises ValueError where there is none."""
        self._want_values()
        return float(self.samples.extremes()[:, 0].min())

    @property
    def high(self) -> float:
        """The largest finite value; raises ValueError where there is none."""
        self._want_values()
        return float(self.samples.extremes()[:, 1].max())

    def _want_values(self) -> None:
        if self.is_empty:
            raise ValueError(nothing_seen(self.samples))


Seen = Histogram | Extremes  # what says how far the values of a tensor reached, as a whole and sample by sample
