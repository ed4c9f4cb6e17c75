"""Histograms of single samples: what a range is judged on.

The noise of a quantizer is best seen sample by sample: in a histogram of all of them, the few samples with the largest
values decide alone. Memory: up to 32 KiB per sample and tensor, so some 16 to 32 samples are kept apart, not hundreds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from jaxtyping import Shaped
from torch import Tensor

from bitwright.calib.histogram import Histogram


@final
class HeldOut:
    """One histogram per sample of one tensor, iterated in the order of the indices."""

    __slots__ = ("_by_sample",)

    def __init__(self) -> None:
        self._by_sample: dict[int, Histogram] = {}

    def add(self, values: Shaped[Tensor, "samples ..."], first: int) -> None:
        """Count in the samples `first`, `first` + 1, ... along axis 0; a sample may come in parts."""
        for index in range(first, first + len(values)):
            held = self._by_sample.setdefault(index, Histogram())
            held.add(values[index - first : index - first + 1], index)

    def merge(self, other: HeldOut) -> None:
        """Count in what another has seen."""
        for index, histogram in other._by_sample.items():
            self._by_sample.setdefault(index, Histogram()).merge(histogram)

    def whole(self) -> Histogram:
        """All samples in one histogram."""
        found = Histogram()
        for histogram in self:
            found.merge(histogram)
        return found

    def __iter__(self) -> Iterator[Histogram]:
        return iter([self._by_sample[index] for index in sorted(self._by_sample)])

    def __len__(self) -> int:
        return len(self._by_sample)
