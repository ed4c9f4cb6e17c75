"""The scores of a quantized network, as plain numbers: what scores.json holds and the report shows.

The same artifact, original and samples make the same file; no times, hosts or paths are in it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from bitwright.evaluate.agreement import Agreement
from bitwright.evaluate.metric import Measured
from bitwright.store.files import write_json


@final
@dataclass(frozen=True, slots=True)
class NetworkScores:
    """The user's metric of both networks (None: none was given), how far outputs are apart, and sizes.

    `compared_on`: in words, the inputs that `outputs` are about. `is_simulated`: whether the network was simulated,
    because no engine runs it. `bytes`: of the delivered files.
    """

    metric: Measured | None
    outputs: tuple[Agreement, ...]
    compared_on: str
    is_simulated: bool
    bytes: int
    bytes_original: int

    def to_plain(self) -> dict[str, Any]:
        """As JSON. `output_sqnr`: decibels by output, None where one is not finite."""
        return {
            "kind": "network",
            "metric": None if self.metric is None else self.metric.as_json(),
            "output_sqnr": {one.output: one.original_db for one in self.outputs},
            "outputs": [asdict(one) for one in self.outputs],
            "compared_on": self.compared_on,
            "is_simulated": self.is_simulated,
            "bytes": self.bytes,
            "bytes_original": self.bytes_original,
        }


def write_network_scores(folder: Path, scores: NetworkScores) -> None:
    """Write scores.json beside the artifact's manifest."""
    write_json(folder / "scores.json", scores.to_plain())
