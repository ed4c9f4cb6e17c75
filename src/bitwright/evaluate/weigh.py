"""What the artifact's weights are, without running anything: their distance from the source's and their stored size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.store.artifact import Artifact, Entry
from bitwright.store.source import Source

FLOOR = 1e-30  # of the share of energy lost, as in the manifest: 300 dB means that the weight is stored exactly
CHUNK = 1 << 22  # elements compared at a time


@final
@dataclass(frozen=True, slots=True)
class Weighed:
    """One quantized weight: signal to noise in decibels, stored bits (scales and zeros too), number of elements."""

    sqnr_db: float
    bits: int
    elements: int


def weigh(artifact: Artifact, source: Source, block: int | None) -> dict[str, Weighed]:
    """Every quantized weight of a block (None: outside the blocks), by name."""
    entries = {entry.name: entry for entry in artifact.entries if entry.block == block}
    qtensors = artifact.qtensors(block)
    stored = source.read({entry.parameter for entry in entries.values()})
    found = {}
    for name, entry in entries.items():
        decibels = sqnr(_matrix(entry, stored), qtensors[name].dequantize())
        found[name] = Weighed(decibels, qtensors[name].bits, entry.shape[0] * entry.shape[1])
    return found


def sqnr(weight: Float[Tensor, "out in"], rounded: Float[Tensor, "out in"]) -> float:
    """10 log10(|W|^2 / |W - W^|^2), at most 300."""
    step = max(1, CHUNK // weight.shape[1])
    signal = noise = 0.0
    for start in range(0, weight.shape[0], step):
        exact = weight[start : start + step].float()
        signal += float(exact.square().sum(dtype=torch.float64))
        noise += float((exact - rounded[start : start + step]).square().sum(dtype=torch.float64))
    return -10 * math.log10(max(noise / max(signal, FLOOR), FLOOR))


def _matrix(entry: Entry, stored: Mapping[str, Tensor]) -> Float[Tensor, "out in"]:
    """The weight [out, in] inside the source's parameter."""
    parameter = stored[entry.parameter]
    matrix = parameter if entry.index is None else parameter[entry.index]
    return matrix.mT if entry.transposed else matrix
