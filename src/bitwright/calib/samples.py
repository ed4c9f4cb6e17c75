"""What calibration keeps of each single sample: its extremes, its moments, and how much of it was not a number.

Averages over samples (the mean of their extremes, a moving average) depend on what a sample is and on the order of the
samples. So a few numbers are kept per sample under its index, and every average is taken at the end in the order of
the indices: batches, workers and arrival have no say. Sums over samples are exact sums of the rows' float64 sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

COLUMNS = 7  # index, low, high, total, square, count, nonfinite
_INDEX, _LOW, _HIGH, _TOTAL, _SQUARE, _COUNT, _NONFINITE = range(COLUMNS)
_PENDING = 64  # parts held before rows of the same sample are joined


@final
class Samples:
    """A table with one row per sample; the parts of a sample that came separately are joined. Counts are below 2**53.

    A sample none of whose values was finite has low = +inf, high = -inf and count 0.
    """

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, rows: Float[Tensor, "samples 7"]) -> None:
        """Count in rows of (index, low, high, total, square, count, nonfinite), float64."""
        self._parts.append(rows)
        if len(self._parts) > _PENDING:
            self.table()

    def merge(self, other: Samples) -> None:
        """Count in what another table has seen."""
        self.add(other.table())

    def table(self) -> Float[Tensor, "samples 7"]:
        """One row per sample in the order of the indices, float64."""
        if len(self._parts) != 1:
            self._parts = [_joined(self._parts)]
        return self._parts[0]

    @property
    def indices(self) -> list[int]:
        """The samples that were seen, in order."""
        return [int(index) for index in self.table()[:, _INDEX].tolist()]

    def extremes(self) -> Float[Tensor, "samples 2"]:
        """Smallest and largest finite value of every sample that has one, in the order of the indices, float64."""
        table = self.table()
        return table[table[:, _COUNT] > 0][:, _LOW : _HIGH + 1]

    def means(self) -> Float[Tensor, "samples"]:
        """The mean of every sample that has a finite value, in the order of the indices, float64."""
        table = self.table()
        held = table[table[:, _COUNT] > 0]
        return held[:, _TOTAL] / held[:, _COUNT]

    @property
    def count(self) -> int:
        """How many finite values all samples hold together."""
        return int(self.table()[:, _COUNT].sum())

    @property
    def total(self) -> float:
        """The sum of all values."""
        return math.fsum(self.table()[:, _TOTAL].tolist())

    @property
    def square(self) -> float:
        """The sum of all squares."""
        return math.fsum(self.table()[:, _SQUARE].tolist())

    @property
    def nonfinite(self) -> dict[int, int]:
        """How many NaN and infinite values each sample has; samples without any are left out."""
        table = self.table()
        bad = table[table[:, _NONFINITE] > 0]
        return {int(index): int(found) for index, found in bad[:, [_INDEX, _NONFINITE]].tolist()}


# Values worked on at a time: what is made of them stays in the processor's cache, and torch does not share them out
# among threads, whose waiting for each other would cost more than the work on a machine that does other things too.
CHUNK = 32_000

_Ends = tuple[Float[Tensor, "samples"], Float[Tensor, "samples"]]


def sample_rows(values: Float[Tensor, "samples n"], first: int, ends: _Ends) -> Float[Tensor, "samples 7"]:
    """The rows of finite values, n >= 1, whose `extremes_of` are `ends`; their samples are `first`, `first` + 1, ..."""
    rows = bounded_rows(values, first, ends)
    rows[:, (_TOTAL, _SQUARE)] = 0.0
    for band, part in _chunks(values):
        exact = part.double()
        rows[band, _TOTAL] += exact.sum(1)
        rows[band, _SQUARE] += exact.square_().sum(1)
    return rows


def bounded_rows(values: Float[Tensor, "samples n"], first: int, ends: _Ends) -> Float[Tensor, "samples 7"]:
    """The rows of finite values, n >= 1, that were not summed: total and square are NaN. See `sample_rows`."""
    rows = torch.zeros(len(values), COLUMNS, dtype=torch.float64)
    rows[:, _INDEX] = torch.arange(first, first + len(values), dtype=torch.float64)
    rows[:, _LOW], rows[:, _HIGH] = ends
    rows[:, (_TOTAL, _SQUARE)] = math.nan
    rows[:, _COUNT] = values.shape[1]
    return rows


def damaged_row(index: int, nonfinite: int) -> Float[Tensor, "1 7"]:
    """The row that says only how many values of a sample were not finite."""
    return torch.tensor([[index, math.inf, -math.inf, 0.0, 0.0, 0, nonfinite]], dtype=torch.float64)


def extremes_of(values: Float[Tensor, "samples n"]) -> _Ends:
    """Smallest and largest value of each row; NaN where the row has one."""
    if values.shape[1] > CHUNK:
        parts = [torch.stack([torch.stack(part.aminmax()) for part in row.split(CHUNK)]) for row in values]
        low, high = torch.stack(parts).unbind(2)
        return low.amin(1), high.amax(1)
    bands = [(part.amin(1), part.amax(1)) for _, part in _chunks(values)]
    low, high = (torch.cat(ends) for ends in zip(*bands, strict=True))
    return low, high


def _chunks(values: Float[Tensor, "samples n"]) -> Iterator[tuple[slice, Float[Tensor, "band part"]]]:
    """The values in pieces of at most CHUNK: several rows, or a part of one; and which rows they are."""
    height = max(1, CHUNK // values.shape[1])
    for top in range(0, len(values), height):
        band = slice(top, top + height)
        for part in values[band].split(CHUNK, dim=1):
            yield band, part


def _joined(parts: list[Tensor]) -> Float[Tensor, "samples 7"]:
    """Rows of the same index made one, in the order of the indices."""
    rows = torch.cat([torch.empty(0, COLUMNS, dtype=torch.float64), *parts])
    indices, place = rows[:, _INDEX].unique(sorted=True, return_inverse=True)
    out = torch.zeros(len(indices), COLUMNS, dtype=torch.float64).index_add_(0, place, rows)
    out[:, _INDEX] = indices
    # index_add_ has added up infinities of opposite sign in these two columns; they are written anew
    out[:, _LOW] = torch.full_like(indices, math.inf).scatter_reduce_(0, place, rows[:, _LOW], "amin")
    out[:, _HIGH] = torch.full_like(indices, -math.inf).scatter_reduce_(0, place, rows[:, _HIGH], "amax")
    return out


def rows_of(values: Shaped[Tensor, "..."]) -> Float[Tensor, "samples n"] | None:
    """One row for each sample, float32; None where there are no values. ValueError for complex numbers."""
    if values.is_complex():
        raise ValueError("calibration takes real numbers; found complex ones")
    if values.numel() == 0:
        return None
    rows = values.detach().to("cpu", torch.float32)
    return rows.reshape(rows.shape[0] if rows.dim() else 1, -1).contiguous()


def nothing_seen(samples: Samples) -> str:
    """What to say of a tensor without finite values."""
    bad = samples.nonfinite
    found = f"only NaN or infinite ones, in samples {sorted(bad)[:8]}" if bad else "none at all"
    return f"no finite value was seen: {found}; give calibration data that reaches this tensor"
