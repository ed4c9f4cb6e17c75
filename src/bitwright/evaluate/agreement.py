"""How far the outputs of two networks are apart, output by output, over any number of batches.

Signal and noise are summed in float64 batch by batch, so no outputs are kept. An output that is not finite has no
distance; where it is not finite in the float original either, that is said, since then quantization is not the cause.
An output whose size depends on the numbers (boxes that were found) may have another shape than the reference's; then
all of that batch is error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from bitwright.evaluate.error import EvaluateError

FLOOR = 1e-30  # noise over signal: 300 decibels, which stands for identical


@final
@dataclass(frozen=True, slots=True)
class Agreement:
    """One output, over all batches. Signal-to-noise ratios in decibels, between -300 and 300 (identical).

    `simulation_db`: against what the simulation foretold; None: no simulation was given, or not finite.
    `original_db`: against the float original; None: not finite. `bad_batch`: the first batch with an output that is
    not finite; None: all are finite. `is_original_finite`: whether the original's outputs are. `reshaped`: batches for
    which its shape is not the original's.
    """

    output: str
    simulation_db: float | None
    original_db: float | None
    bad_batch: int | None
    is_original_finite: bool
    foretold_db: float | None = None
    reshaped: int = 0

    @property
    def is_finite(self) -> bool:
        """Whether every element of every batch was finite."""
        return self.bad_batch is None


@final
@dataclass
class Distance:
    """Sums of one output's energy and of its squared distance; decibels in the end."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: Tensor, found: Tensor) -> None:
        """Count one batch; all of it is error where the shapes differ."""
        exact = reference.double()
        energy = float(exact.square().sum())
        self.signal += energy
        self.noise += float((exact - found.double()).square().sum()) if found.shape == exact.shape else energy

    def decibels(self) -> float | None:
        """10 log10(signal / noise) between -300 and 300; None where a sum is not finite."""
        if not (math.isfinite(self.signal) and math.isfinite(self.noise)):
            return None
        if self.noise == 0:
            return -10 * math.log10(FLOOR)
        if self.signal == 0:
            return 10 * math.log10(FLOOR)
        return max(-300.0, min(300.0, 10 * (math.log10(self.signal) - math.log10(self.noise))))


@final
@dataclass
class Compared:
    """The sums of one output so far."""

    output: str
    to_original: Distance = field(default_factory=Distance)
    to_simulation: Distance | None = None
    foretold: Distance | None = None
    bad_batch: int | None = None
    is_original_finite: bool = True
    has_begun: bool = False
    reshaped: int = 0

    def add(self, batch: int, found: Tensor, original: Tensor, simulated: Tensor | None) -> None:
        """Count one batch; EvaluateError where the numbers of axes differ."""
        _check_axes(self.output, "the original's", found, original)
        self.has_begun = True
        self.reshaped += found.shape != original.shape
        self.to_original.add(original, found)
        if simulated is not None:
            _check_axes(self.output, "the simulation's", found, simulated)
            self.to_simulation = self.to_simulation or Distance()
            self.to_simulation.add(simulated, found)
            self.foretold = self.foretold or Distance()
            self.foretold.add(original, simulated)
        self.is_original_finite &= bool(torch.isfinite(original).all())
        if self.bad_batch is None and not bool(torch.isfinite(found).all()):
            self.bad_batch = batch

    def agreement(self) -> Agreement:
        """What the sums amount to."""
        simulated, foretold = (None if one is None else one.decibels() for one in (self.to_simulation, self.foretold))
        original = self.to_original.decibels()
        is_finite, reshaped = self.is_original_finite, self.reshaped
        return Agreement(self.output, simulated, original, self.bad_batch, is_finite, foretold, reshaped)


def named(outputs: Mapping[str, Tensor], name: str, whose: str) -> Tensor:
    """The output of this name; EvaluateError where it is missing."""
    if name not in outputs:
        raise EvaluateError(
            f"{name}: an output of the quantized file that {whose} lacks; it has {', '.join(outputs) or 'none'}"
        )
    return outputs[name]


def _check_axes(name: str, whose: str, found: Tensor, reference: Tensor) -> None:
    if found.dim() != reference.dim():
        raise EvaluateError(
            f"{name}: the quantized file makes shape {list(found.shape)}, but {whose} output has "
            f"{list(reference.shape)}; compare a file with the network it was made from, on the same batches"
        )
