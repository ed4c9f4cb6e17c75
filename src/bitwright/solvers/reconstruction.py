"""What learned rounding is asked and what it answers: a piece of a network that should give the outputs it gave before.

A piece (one layer with what follows it, or a whole block) is a differentiable function of its weights and inputs, in
which activations pass through a callable at the points where they are quantized. Samples are what it read and gave in
the original network, and what it reads now that all before it is quantized. The error is the squared difference of
outputs over the energy of the wanted outputs, each weighed by Fisher information where that is asked for; so it is the
inverse of a signal-to-noise ratio and does not depend on the units of the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import final

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from bitwright.numerics import Params, QTensor, Spec
from bitwright.solvers.straight import straight_through

Quantize = Callable[[str, Tensor], Tensor]  # the value's name and the value; what is no point comes back as it is
Forward = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Quantize], Tensor]  # weights and biases, inputs, points


class Piece(Enum):
    """What a method wants to reconstruct at once."""

    LAYER = "layer"
    BLOCK = "block"


class Weighting(Enum):
    """What weighs the squared error of an output element."""

    PLAIN = "plain"
    FISHER = "fisher"


@final
@dataclass(frozen=True, slots=True)
class RoundedWeight:
    """A weight of any shape and the codes it has now, as the matrix whose rows are the slices along `axis`."""

    tensor: Float[Tensor, "..."]
    start: QTensor
    axis: int = 0

    def matrix(self) -> Float[Tensor, "out in"]:
        """The original numbers as [out, everything else]."""
        moved = self.tensor.detach().float().movedim(self.axis, 0)
        return moved.reshape(moved.shape[0], -1)

    def shaped(self, matrix: Float[Tensor, "out in"]) -> Float[Tensor, "..."]:
        """A matrix of that kind in the shape of the weight; differentiable."""
        shape = self.tensor.movedim(self.axis, 0).shape
        return matrix.reshape(shape).movedim(0, self.axis)


@final
@dataclass(frozen=True, slots=True)
class Activation:
    """How a value is quantized: one scale and one zero for the whole tensor, as stored."""

    spec: Spec
    params: Params

    def apply(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The quantized values; the gradient passes straight through inside the range and is zero outside."""
        zero = None if self.params.zero is None else self.params.zero.reshape(())
        return straight_through(values, self.params.scale.reshape(()), zero, self.spec.format)


@final
@dataclass(frozen=True, slots=True)
class Samples:
    """Cached values, samples along axis 0: inputs of the original and of the quantized network, and wanted outputs.

    `fisher` are the squared gradients of the task's loss at the outputs (any common factor), or None.
    """

    original: Mapping[str, Shaped[Tensor, "..."]]
    quantized: Mapping[str, Shaped[Tensor, "..."]]
    wanted: Float[Tensor, "samples ..."]
    fisher: Float[Tensor, "samples ..."] | None = None

    def __len__(self) -> int:
        return len(self.wanted)

    def take(self, rows: Int64[Tensor, "rows"]) -> Samples:
        """Some of them."""
        fisher = None if self.fisher is None else self.fisher[rows]
        return Samples(_rows(self.original, rows), _rows(self.quantized, rows), self.wanted[rows], fisher)

    def batches(self, size: int) -> Iterator[Samples]:
        """All of them in order, at most `size` at a time."""
        for rows in torch.arange(len(self)).split(size):
            yield self.take(rows)


@final
@dataclass(frozen=True, slots=True)
class Progress:
    """How far the learning is. `loss`: of the last minibatch, over that of the starting codes."""

    step: int
    steps: int
    loss: float
    seconds_left: float


@final
@dataclass(frozen=True, slots=True)
class Reconstruction:
    """One piece. `biases` are handed to `forward` beside the weights; `held_out` decides whether an answer is kept.

    Raises ValueError, with what to do, where the parts do not fit or samples are not finite.
    """

    forward: Forward
    weights: Mapping[str, RoundedWeight]
    samples: Samples
    held_out: Samples
    biases: Mapping[str, Float[Tensor, "..."]] = field(default_factory=dict)
    points: Mapping[str, Activation] = field(default_factory=dict)
    seed: int = 0
    progress: Callable[[Progress], None] | None = None

    def __post_init__(self) -> None:
        _check(self)

    def start(self) -> Choice:
        """What the piece is made of before learning."""
        return Choice({name: weight.start for name, weight in self.weights.items()}, self.biases, self.points)


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """All that a method may choose: codes and scales of the weights, biases, and the activations' scales."""

    weights: Mapping[str, QTensor]
    biases: Mapping[str, Float[Tensor, "..."]]
    points: Mapping[str, Activation]


@final
@dataclass(frozen=True, slots=True)
class Reconstructed:
    """The answer, the held-out errors of the start and of the answer (noise over signal), and the steps taken.

    `kept` False: learning did not help on held-out samples, so the answer is the start (or nearest); a note says so.
    """

    choice: Choice
    before: float
    after: float
    steps: int
    kept: bool
    notes: tuple[str, ...] = ()


class BlockSolver(ABC):
    """A way to choose the codes of all weights of a piece together."""

    __slots__ = ()

    @property
    @abstractmethod
    def piece(self) -> Piece:
        """What it is to be given."""

    @abstractmethod
    def drawn(self, numbers: int) -> int:
        """How many samples it runs forth and back at most, in a piece that makes so many numbers for each."""

    @abstractmethod
    def reconstruct(self, problem: Reconstruction) -> Reconstructed:
        """The best choice found; never worse on the held-out samples than where it started, nor than nearest codes."""


def _check(problem: Reconstruction) -> None:
    if not problem.weights and not problem.points:
        raise ValueError("a reconstruction without weights and points has nothing to learn; leave this piece out")
    for name, weight in problem.weights.items():
        if weight.start.residual is not None:
            raise ValueError(f"{name}: a weight with a residual term cannot be learned; use a spec without one")
        if weight.matrix().shape != weight.start.codes.shape:
            raise ValueError(
                f"{name}: codes are {tuple(weight.start.codes.shape)}, but slices along axis {weight.axis} make "
                f"{tuple(weight.matrix().shape)}; give the codes of that matrix"
            )
    for name, point in problem.points.items():
        if point.params.scale.numel() != 1:
            raise ValueError(f"{name}: {point.params.scale.numel()} scales, but an activation has one for all of it")
    for kind, samples in (("learning", problem.samples), ("held-out", problem.held_out)):
        _check_samples(samples, kind)


def _check_samples(samples: Samples, kind: str) -> None:
    if len(samples) == 0:
        raise ValueError(f"no {kind} samples; give at least one (a quarter of the calibration samples is a good share)")
    values = {**samples.quantized, "the wanted output": samples.wanted}
    for name, value in values.items():
        if len(value) != len(samples):
            raise ValueError(f"{name}: {len(value)} {kind} samples, but {len(samples)} wanted outputs")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value.flatten(1))).any(1).nonzero()[0])
            raise ValueError(f"{name}: {kind} sample {bad} holds numbers that are not finite; leave that sample out")


def squared_error(output: Tensor, samples: Samples, weighting: Weighting) -> tuple[Tensor, Tensor]:
    """The sums of squared errors and of squared wanted outputs, weighed as asked."""
    wanted = samples.wanted.float()
    if output.shape != wanted.shape:
        raise ValueError(f"the piece gives {tuple(output.shape)} where {tuple(wanted.shape)} is wanted")
    error = (output - wanted).square()
    if weighting is Weighting.PLAIN:
        return error.sum(), wanted.square().sum()
    if samples.fisher is None:
        raise ValueError("these samples have no Fisher weights; give them, or use Weighting.PLAIN")
    fisher = samples.fisher.float()
    return (error * fisher).sum(), (wanted.square() * fisher).sum()


def held_out_error(problem: Reconstruction, choice: Choice, weighting: Weighting, batch: int) -> float:
    """Noise over signal of a choice on the held-out samples, which read what the quantized network hands them."""
    weights = {name: problem.weights[name].shaped(chosen.dequantize()) for name, chosen in choice.weights.items()}
    weights |= choice.biases
    noise, signal = 0.0, 0.0

    def quantize(name: str, value: Tensor) -> Tensor:
        return choice.points[name].apply(value) if name in choice.points else value

    with torch.no_grad():
        for samples in problem.held_out.batches(batch):
            one, other = squared_error(
                problem.forward(weights, floats(samples.quantized), quantize), samples, weighting
            )
            noise, signal = noise + float(one), signal + float(other)
    return noise / signal if signal > 0 else noise


def _rows(values: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in values.items()}


def floats(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point values in float32, however they were cached; others (indices) as they are."""
    return {name: value.float() if value.is_floating_point() else value for name, value in values.items()}
