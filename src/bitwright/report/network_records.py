"""What the files of a quantized network say, as plain records; see `records.py` for what a missing figure is.

The fields that the page draws alike for both halves of the tool (sizes, rows, notes, what was kept, where it came from)
have the names that they have for language models; the rest is drawn for networks alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.report.records import Run, Source
from bitwright.report.summary import KeptGroup, Note, Part, Row


@dataclass(frozen=True, slots=True)
class Samples:
    """What the network was calibrated on."""

    rows: float | None
    digest: str
    preprocessing: str


@dataclass(frozen=True, slots=True)
class Metric:
    """The user's own measure of both networks."""

    name: str
    original: float | None
    delivered: float | None
    interval: tuple[float, float] | None
    samples: float | None
    higher_is_better: bool


@dataclass(frozen=True, slots=True)
class Output:
    """How far one output is from the original's, and from what was foretold."""

    name: str
    original_db: float | None
    simulation_db: float | None


@dataclass(frozen=True, slots=True)
class Scores:
    """scores.json: `text` says on what outputs were compared."""

    metric: Metric | None
    outputs: tuple[Output, ...]
    text: str
    is_simulated: bool
    bytes: float | None
    bytes_original: float | None


@dataclass(frozen=True, slots=True)
class PointRow:
    """A value that passes through codes, and its range. `clipped`: the part of all values outside of it."""

    value: str
    group: str
    spec: str
    rule: str
    low: float | None
    high: float | None
    clipped: float | None
    sqnr_db: float | None


@dataclass(frozen=True, slots=True)
class Tried:
    """Something that was tried on held-out samples, and the noise of the outputs with it."""

    name: str
    noise: float | None


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit of the float network. `refused`: the places that it had to leave, and why."""

    name: str
    is_kept: bool
    before: float | None
    tried: tuple[Tried, ...]
    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Speed:
    """One comparison of times."""

    against: str
    batch: str
    speedup: float | None
    interval: tuple[float, float] | None
    milliseconds: float | None
    milliseconds_against: float | None


@dataclass(frozen=True, slots=True)
class Engine:
    """What one engine showed. `floats`: operators that ran in float, with their number."""

    name: str
    version: str
    outputs: tuple[Output, ...]
    integer: float
    floats: tuple[tuple[str, float], ...]
    speeds: tuple[Speed, ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """delivery.json. `foretold`: outputs of the target's own arithmetic; `is_here`: whether its engine ran here."""

    machine: str
    target: str
    is_here: bool
    foretold: tuple[Output, ...]
    engines: tuple[Engine, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Round:
    """One round of the pursuit of a goal: operators that stayed float for it, what was found, the outputs' noise."""

    floats: float | None
    found: tuple[float | None, ...]
    noise: float | None


@dataclass(frozen=True, slots=True)
class Goal:
    """What was asked of the outputs, whether they are so, and the rounds it took."""

    asked: tuple[str, ...]
    is_met: bool
    rounds: tuple[Round, ...]


@dataclass(frozen=True, slots=True)
class NetworkPage:
    """All that the page draws of a network."""

    kind: str
    version: str
    target: str
    source: Source
    calibration: Samples
    recipe: tuple[tuple[str, str], ...]
    scores: Scores | None
    run: Run | None
    quantized_bits: float | None
    parts: tuple[Part, ...]
    rows: tuple[Row, ...]
    notes: tuple[Note, ...]
    kept: tuple[KeptGroup, ...]
    integer: int
    points: tuple[PointRow, ...]
    rules: tuple[Tried, ...]
    edits: tuple[Edit, ...]
    goal: Goal | None
    findings: tuple[str, ...]
    delivery: Delivery | None
