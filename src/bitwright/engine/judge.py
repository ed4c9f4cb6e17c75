"""Who decides: the outputs of the network on samples that made no range.

A rule judges tensors one by one, an edit looks at ranges; what either does to the answer depends on all that follows.
So each is simulated, and what counts is how far the outputs are from those of the float network, as noise over signal
of every sample, averaged. A mean in decibels would give up single samples for a little gain in all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float64
from torch import Tensor

from bitwright.calib import Choice, RangeRule
from bitwright.calib.activation import activation_params
from bitwright.engine.observe import HELD_OUT, Observed, is_held_out, points_of_each
from bitwright.engine.progress import OnStep, Step, ignore
from bitwright.execute.node_walk import Change, NodeWalk, Quantize
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.recipe.network import NetworkPlan
from bitwright.solvers import Activation
from bitwright.store.quantized import StoredPoint
from bitwright.store.sample_set import Samples

BATCH = 16
JUDGING = 32  # samples at most
FAINT = 1e-3  # a sample with less than this part of the mean signal counts as if it had as much

Points = Mapping[str, StoredPoint]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """The points of the rule that was taken, how each range was chosen by it, and each rule's noise over signal."""

    points: Points
    choices: Mapping[str, Choice]
    tried: tuple[tuple[RangeRule, float], ...]

    @property
    def rule(self) -> RangeRule:
        """The rule that was taken."""
        return min(self.tried, key=lambda held: held[1])[0]


@final
class Judge:
    """Held-out samples, and what the float network makes of them. `on_step` is told of every simulation."""

    def __init__(self, runner: OnnxRunner, samples: Samples, on_step: OnStep = ignore) -> None:
        self._simulated, self._on_step = 0, on_step
        self.batches: Sequence[Mapping[str, Tensor]] = list(samples.batches(BATCH))
        self._is_wide = samples.most is not None
        self._wanted = [runner.run(batch) for batch in self.batches]

    def noise(self, runner: OnnxRunner, points: Points, changes: Mapping[str, Change] | None = None) -> float:
        """Noise over signal of the outputs, mean over samples, when `runner`'s network passes these points.

        `runner`: the network itself, or an edited one with the same inputs and outputs. `changes`: by name of node.
        """
        self._simulated += 1
        self._on_step(Step("simulation", self._simulated, 0))
        walk = NodeWalk(runner, self.batches, {name: (through(point), point.readers) for name, point in points.items()})
        if self._is_wide:
            walk.advance_apart(runner.network.nodes, changes or {})
        else:
            for node in runner.network.nodes:
                walk.advance(node, (changes or {}).get(node.name, Change()))
        names = [name for name, value in self._wanted[0].items() if value.is_floating_point()]
        found = [
            noise_over_signal([wanted[name] for wanted in self._wanted], [live[name] for live in walk.live])
            for name in names
        ]
        return float(torch.cat(found).mean()) if found else 0.0


def held_out(samples: Samples) -> Samples:
    """At most 32 samples: those that made no range, from all places; where these are fewer, others join them.

    A few judges are worse than partial ones: the ranges that two of 16 samples choose may lose several decibels on
    others.
    """
    wanted = max(JUDGING, samples.stacking.fixed or 1)
    apart = [place for place in range(samples.count) if is_held_out(place)]
    makers = [place for place in range(samples.count) if not is_held_out(place)]
    joining = min(max(0, wanted - len(apart)), len(makers))
    others = [makers[place * len(makers) // joining] for place in range(joining)]
    return samples.at(sorted(apart + others)).dealt(JUDGING, BATCH)


def teaching(samples: Samples) -> Samples:
    """The others; of a few samples, or where a network fixes its batch, all."""
    apart = [place for place in range(samples.count) if not is_held_out(place)]
    return samples if samples.stacking.fixed or samples.count < HELD_OUT else samples.at(apart)


def best_ranges(
    plan: NetworkPlan, runner: OnnxRunner, observed: Observed, rules: Sequence[RangeRule], judge: Judge
) -> Ranges:
    """The points of the rule with which the outputs are best; of equal ones the first."""
    found = points_of_each(plan, runner.network, observed, rules)
    noise: dict[
        tuple[tuple[float | None, float | None], ...], float
    ] = {}  # rules often agree, and then one simulation is enough
    tried = []
    for rule, (points, _) in zip(rules, found, strict=True):
        ranges = tuple((point.low, point.high) for point in points.values())
        if ranges not in noise:
            noise[ranges] = judge.noise(runner, points)
        tried.append((rule, noise[ranges]))
    best = min(range(len(rules)), key=lambda place: tried[place][1])
    return Ranges(*found[best], tuple(tried))


def through(point: StoredPoint) -> Quantize:
    """What a value is after passing through a point's codes, whose range is the value's own if the point has none."""
    params = point.params

    def quantize(name: str, value: Tensor) -> Tensor:
        with torch.no_grad():
            found = params or activation_params(float(value.min()), float(value.max()), point.spec)
            return Activation(point.spec, found).apply(value)

    return quantize


def noise_over_signal(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> Float64[Tensor, "samples"]:
    """The energy of the error of every sample over that of the sample; the batches are of one output.

    Where the shape of an output depends on its numbers (boxes that were found) and differs, all of it is error.
    """
    errors = (b.double() - a.double() if a.shape == b.shape else a.double() for a, b in zip(wanted, found, strict=True))
    noise = torch.cat(list(_energies(errors)))
    signal = torch.cat(list(_energies(one.double() for one in wanted)))
    floor = max(FAINT * float(signal.mean()), 1e-30)
    return noise / signal.clamp(min=floor)


def _energies(tensors: Iterator[Tensor]) -> Iterator[Float64[Tensor, "samples"]]:
    for tensor in tensors:
        rows = tensor if tensor.dim() else tensor[None]
        yield rows.square().flatten(1).sum(1) if rows.dim() > 1 else rows.square()
