"""What the JSON files of an artifact say, as plain records.

The files are written by another program, perhaps by an older or newer one, so every figure may be missing; `None` in
these records means "not given, or not a finite number", and the page prints a dash for it. Names and the fields of
lists are always present. `loss` is the squared output error on held-out rows relative to the energy of the original
output, so that losses of different weights may be compared and added.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of equal bins between low and high; `grid` holds the values that the format can store, if known."""

    low: float
    high: float
    counts: tuple[float, ...]
    grid: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Alternative:
    """What a weight would lose, and take, under another spec."""

    loss: float
    bits: float


@dataclass(frozen=True, slots=True)
class Storage:
    """Stored bits of one weight; what codes, scales and zeros leave over is its residual terms."""

    total: float
    codes: float
    scales: float
    zeros: float


@dataclass(frozen=True, slots=True)
class Weight:
    """One quantized weight."""

    name: str
    block: int | None
    shape: tuple[int, ...]
    spec: str
    storage: Storage
    solver: str
    chosen: str
    sqnr_db: float | None
    loss: float | None
    loss_nearest: float | None
    one_bit_more: Alternative | None
    half_group: Alternative | None
    notes: tuple[str, ...]
    histogram: Histogram | None
    inputs: Histogram | None


@dataclass(frozen=True, slots=True)
class Kept:
    """One tensor that stays as it was."""

    name: str
    shape: tuple[int, ...]
    bytes: float
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Block:
    """Error of a block's output on held-out rows, for this run and with its weights rounded to nearest."""

    name: str
    error: float | None
    error_nearest: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """The model that was quantized."""

    name: str
    digest: str
    bytes: float | None
    dtype: str
    parameters: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """The batches that calibration saw."""

    rows: float | None
    length: float | None
    held_out: float | None
    digest: str


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tuning did to the divergence on held-out rows; `kept` False: codes stayed as they were."""

    before: float | None
    after: float | None
    kept: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """manifest.json."""

    version: str
    source: Source
    recipe: tuple[tuple[str, str], ...]
    calibration: Calibration | None
    tuned: Tuned | None
    weights: tuple[Weight, ...]
    kept: tuple[Kept, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure and its 95% interval."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Scores:
    """scores.json: this artifact against the original on one text."""

    perplexity: Measured | None
    perplexity_original: Measured | None
    kl_mean: Measured | None
    kl_p999: Measured | None
    top1_agreement: Measured | None
    bits_per_weight: float | None
    bytes: float | None
    bytes_original: float | None
    tokens: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Run:
    """run.json: what the run took, which the same inputs need not take again."""

    seconds: float | None
    block_seconds: tuple[float | None, ...]
    peak_bytes: float | None
    host: tuple[tuple[str, str], ...]
