"""The loop that all learned roundings share: minibatches, Adam, decisions that sharpen, checks on held-out samples.

What is learned differs (shares between two neighbours, or weights and scales straight through), how it is learned does
not. Every so often the answer as it would be stored is measured on the held-out samples and the best one is kept; once
nothing is undecided any more and a check brings nothing new, learning ends early. The starting codes and plain nearest
codes are measured in the same way, so the answer can be no worse than either. All randomness comes from generators
seeded by the problem, and sums are made in a fixed order: same problem, same bits.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor

from bitwright.numerics import quantize
from bitwright.solvers.points import Points, coins
from bitwright.solvers.reconstruction import (
    Choice,
    Progress,
    Reconstructed,
    Reconstruction,
    Samples,
    Weighting,
    floats,
    held_out_error,
    squared_error,
)

_FEWEST = 4  # samples in a batch, however large their outputs


@final
@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps of at most `batch` samples, and `checks` looks at the held-out samples on the way.

    `elements`: a batch has no more samples than give this many output elements, but at least four. An output with many
    positions says as much in few samples; more of them would only take time and memory.
    `sharpness`: what the logits of undecided weights are multiplied with at the last step; 1 at the first, and growing
    by the same factor at every step.
    """

    steps: int = 300
    batch: int = 32
    elements: int = 1 << 18
    sharpness: float = 300.0
    checks: int = 4

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.elements, self.checks) < 1 or self.sharpness < 1:
            raise ValueError(f"steps, batch, elements, checks and sharpness are at least 1; found {self}")

    def size(self, samples: Samples) -> int:
        """How many of these samples make a batch."""
        return min(self._fitting(samples.wanted[0].numel()), len(samples))

    def drawn(self, numbers: int) -> int:
        """How many samples all steps draw together from a piece that makes so many numbers for each."""
        return self.steps * self._fitting(numbers)

    def _fitting(self, numbers: int) -> int:
        return min(self.batch, max(_FEWEST, self.elements // max(1, numbers)))

    def sharp(self, step: int) -> float:
        """The factor on the logits at this step."""
        return float(self.sharpness ** (step / self.steps))


@dataclass(frozen=True, slots=True)
class Rate:
    """Tensors to learn, their learning rate at the first step, and whether it falls to zero (by a cosine)."""

    tensors: tuple[Tensor, ...]
    rate: float
    falls: bool = False


class Variables(ABC):
    """What one method learns, and the piece's weights as a function of it."""

    @abstractmethod
    def rates(self) -> list[Rate]:
        """The tensors to learn."""

    @abstractmethod
    def draw(self, sharp: float) -> dict[str, Tensor]:
        """Weights and biases for one step, differentiable in what is learned."""

    @abstractmethod
    def choice(self) -> Choice:
        """The answer as it would be stored now."""

    @abstractmethod
    def is_settled(self, sharp: float) -> bool:
        """Whether nothing in it is undecided any more."""


@final
@dataclass(frozen=True, slots=True)
class Loop:
    """How to learn. `drop`: the share of elements that are left unquantized, in the piece and in what it reads."""

    schedule: Schedule
    weighting: Weighting = Weighting.PLAIN
    drop: float = 0.0

    def run(self, problem: Reconstruction, variables: Variables, points: Points) -> Reconstructed:
        """The best answer on the held-out samples among the start, nearest codes, and what is learned."""
        best = _Best(problem, self.weighting, self.schedule.size(problem.held_out))
        best.offer_start()
        if best.before == 0.0:
            return Reconstructed(best.choice, 0.0, 0.0, 0, True, ("the start is exact: nothing to learn",))
        run = _Run(self, problem, variables, points, best)
        steps, notes = run.steps() if run.rates else (0, ("nothing to learn: no weights, or all rates are 0",))
        if not best.learned:
            notes += (f"learning did not lower the error on the held-out samples: kept the {best.origin} codes",)
        return Reconstructed(best.choice, best.before, best.error, steps, best.learned, notes)


class _Best:
    """The best choice so far by the error on the held-out samples."""

    def __init__(self, problem: Reconstruction, weighting: Weighting, batch: int) -> None:
        self.problem, self.weighting, self.batch = problem, weighting, batch
        self.choice, self.before, self.error, self.origin = problem.start(), 0.0, math.inf, "starting"

    @property
    def learned(self) -> bool:
        """Whether the best is one that was learned."""
        return self.origin == "learned"

    def offer_start(self) -> None:
        start = self.problem.start()
        self.before = self.error = self._error(start)
        if not math.isfinite(self.error):
            raise ValueError(
                f"the error of the starting codes on the held-out samples is {self.error}: "
                "check the samples for values that are not finite, and the weights for scales that are"
            )
        nearest = {n: quantize(w.matrix(), w.start.spec, w.start.params) for n, w in self.problem.weights.items()}
        if any(not torch.equal(nearest[name].codes, start.weights[name].codes) for name in nearest):
            self.offer(replace(start, weights=nearest), "nearest")

    def offer(self, choice: Choice, origin: str = "learned") -> bool:
        """Take it if it is better than all before."""
        error = self._error(choice)
        if not error < self.error:
            return False
        self.choice, self.error, self.origin = choice, error, origin
        return True

    def _error(self, choice: Choice) -> float:
        return held_out_error(self.problem, choice, self.weighting, self.batch)


class _Run:
    """One pass of the loop."""

    def __init__(self, loop: Loop, problem: Reconstruction, variables: Variables, points: Points, best: _Best) -> None:
        self.loop, self.problem, self.variables, self.points, self.best = loop, problem, variables, points, best
        every = (*variables.rates(), Rate(tuple(points.moves.values()), points.rate, falls=True))
        self.rates = [rate for rate in every if rate.tensors and rate.rate > 0]
        groups = [{"params": list(rate.tensors), "lr": rate.rate} for rate in self.rates]
        self.optimizer = torch.optim.Adam(groups, eps=1e-12, fused=True) if groups else None
        self.unit = self._signal() * best.before
        self.drops = torch.Generator().manual_seed(problem.seed + 1)

    def _signal(self) -> float:
        """The wanted output's energy per sample, weighed as the error is."""
        parts = self.problem.samples.batches(self.loop.schedule.size(self.problem.samples))
        total = sum(float(squared_error(part.wanted.float(), part, self.loop.weighting)[1]) for part in parts)
        return total / len(self.problem.samples) or 1.0

    def steps(self) -> tuple[int, tuple[str, ...]]:
        """Run until the end or until nothing changes; how many steps were taken, and what went wrong."""
        schedule, began = self.loop.schedule, time.monotonic()
        size = schedule.size(self.problem.samples)
        every = max(1, schedule.steps // schedule.checks)
        for step, rows in enumerate(minibatches(len(self.problem.samples), size, schedule.steps, self.problem.seed)):
            loss = self._step(step, self.problem.samples.take(rows))
            if not math.isfinite(loss):
                return step, (f"the error was {loss} after {step} steps: learning ended there",)
            self._report(step + 1, loss, began)
            if (step + 1) % every and step + 1 < schedule.steps:
                continue
            better = self.best.offer(self._choice())
            if not better and self.variables.is_settled(schedule.sharp(step)):
                return step + 1, ()
        return schedule.steps, ()

    def _step(self, step: int, samples: Samples) -> float:
        assert self.optimizer is not None
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            if rate.falls:
                group["lr"] = rate.rate * 0.5 * (1 + math.cos(math.pi * step / self.loop.schedule.steps))
        self.optimizer.zero_grad()
        weights = self.variables.draw(self.loop.schedule.sharp(step))
        quantize = self.points.learning(self.loop.drop, self.drops)
        output = self.problem.forward(weights, self._inputs(samples), quantize)
        noise, _ = squared_error(output, samples, self.loop.weighting)
        loss = noise / len(samples) / self.unit
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def _inputs(self, samples: Samples) -> dict[str, Tensor]:
        """What the quantized network hands the piece; a share of the elements from the original, if asked for."""
        given = floats(samples.quantized)
        if self.loop.drop == 0:
            return given
        original = floats(samples.original)
        mixed: dict[str, Tensor] = {}
        for name, value in given.items():
            if value.is_floating_point():
                value = torch.lerp(value, original[name], coins(value.shape, self.loop.drop, self.drops))
            mixed[name] = value
        return mixed

    def _choice(self) -> Choice:
        return replace(self.variables.choice(), points=self.points.stored())

    def _report(self, step: int, loss: float, began: float) -> None:
        if self.problem.progress is not None:
            steps = self.loop.schedule.steps
            left = (time.monotonic() - began) / step * (steps - step)
            self.problem.progress(Progress(step, steps, loss, left))


def minibatches(count: int, size: int, steps: int, seed: int) -> Iterator[Int64[Tensor, "size"]]:
    """Rows for each step: one random order of all after the other, cut into pieces of `size`."""
    generator = torch.Generator().manual_seed(seed)
    rest = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(rest) < size:
            rest = torch.cat([rest, torch.randperm(count, generator=generator)])
        yield rest[:size]
        rest = rest[size:]
