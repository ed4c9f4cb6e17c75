"""The scores of one artifact on one text, as plain numbers: what scores.json holds and the report shows.

The same artifact, source and text make the same file; no times, hosts or paths are in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from bitwright.store.artifact import Artifact
from bitwright.store.files import write_json


@final
@dataclass(frozen=True, slots=True)
class Scores:
    """Figures (see `tokens.Figures`), their 95% intervals by name (none if the text is one window), and sizes.

    `layers`: quantized weight -> its SQNR in decibels. `bits_per_weight`: stored bits of the quantized weights, scales
    and zeros included, over their number; None: nothing is quantized. `tokens`: how many were predicted, in `windows`
    windows of `length`. `text`: digest of the text. `compute`: the float type that both models ran in.
    """

    perplexity: float
    perplexity_original: float
    perplexity_increase: float
    kl_mean: float
    kl_p999: float
    top1_agreement: float
    intervals: Mapping[str, tuple[float, float]]
    layers: Mapping[str, float]
    bits_per_weight: float | None
    bytes: int
    bytes_original: int
    tokens: int
    windows: int
    length: int
    text: str
    compute: str

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"intervals": {name: list(ends) for name, ends in self.intervals.items()}}


def write_scores(artifact: Artifact, scores: Scores) -> None:
    """Write scores.json beside the artifact's manifest."""
    write_json(artifact.path / "scores.json", scores.to_plain())
