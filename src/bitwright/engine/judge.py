"""Which range rule serves a network best: the one with which its outputs are best on held-out samples.

A rule judges tensors one by one; what noise in a tensor does to the answer depends on all that follows. So each rule's
points are simulated, weights still float, on the samples that made no range, and the outputs decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from bitwright.calib import Choice, RangeRule
from bitwright.engine.observe import HELD_OUT, Observed, points_of
from bitwright.execute.node_walk import NodeWalk, Quantize
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.recipe.network import NetworkPlan
from bitwright.solvers import Activation
from bitwright.store.quantized import StoredPoint

JUDGING = 32  # samples at most
_IDENTICAL = 100.0  # dB; more counts as this

Points = Mapping[str, StoredPoint]


def best_points(
    plan: NetworkPlan,
    runner: OnnxRunner,
    observed: Observed,
    rules: Sequence[RangeRule],
    batches: Iterable[Mapping[str, Tensor]],
) -> tuple[Points, Mapping[str, Choice], dict[str, float]]:
    """The points of the best rule, how each range was chosen, and each rule's dB where several were tried."""
    first = points_of(plan, runner.network, observed, rules[0])
    if len(rules) == 1:
        return *first, {}
    judging = held_out(batches)
    wanted = [runner.run(batch) for batch in judging]
    best, tried = first, {type(rules[0]).__name__: _output_sqnr(runner, first[0], judging, wanted)}
    for rule in rules[1:]:
        found = points_of(plan, runner.network, observed, rule)
        sqnr = _output_sqnr(runner, found[0], judging, wanted)
        if sqnr > max(tried.values()):
            best = found
        tried[type(rule).__name__] = sqnr
    return *best, tried


def through(point: StoredPoint) -> Quantize:
    """What a value is after passing through a point's codes."""
    activation = Activation(point.spec, point.params)

    def quantize(name: str, value: Tensor) -> Tensor:
        with torch.no_grad():
            return activation.apply(value)

    return quantize


def held_out(batches: Iterable[Mapping[str, Tensor]]) -> list[Mapping[str, Tensor]]:
    """The samples that made no range; whole batches where inputs do not run along the samples alike."""
    found: list[Mapping[str, Tensor]] = []
    first = count = 0
    for batch in batches:
        sizes = {len(tensor) if tensor.dim() else 1 for tensor in batch.values()}
        size = min(sizes)
        rows = [row for row in range(size) if (first + row) % HELD_OUT == HELD_OUT - 1]
        first += size
        if len(sizes) > 1 or size < HELD_OUT:
            rows = list(range(size))
            found.append(batch)
        elif rows:
            found.append({name: tensor[rows] for name, tensor in batch.items()})
        count += len(rows)
        if count >= JUDGING:
            break
    return found


def _output_sqnr(
    runner: OnnxRunner, points: Points, batches: Sequence[Mapping[str, Tensor]], wanted: Sequence[Mapping[str, Tensor]]
) -> float:
    """Mean over samples and outputs of signal over noise in dB."""
    walk = NodeWalk(runner, batches, {name: (through(point), point.readers) for name, point in points.items()})
    for node in runner.network.nodes:
        walk.advance(node, {})
    ratios = [
        sample_sqnr(value, live[name])
        for live, outputs in zip(walk.live, wanted, strict=True)
        for name, value in outputs.items()
        if value.is_floating_point()
    ]
    return float(torch.cat(ratios).mean()) if ratios else 0.0


def sample_sqnr(wanted: Tensor, found: Tensor) -> Tensor:
    """10 log10 of signal over noise of every sample, at most 100 dB; float64."""
    exact = wanted.double().reshape(len(wanted), -1) if wanted.dim() else wanted.double().reshape(1, 1)
    noise = (found.double().reshape(exact.shape) - exact).square().sum(1)
    signal = exact.square().sum(1)
    ratio = 10 * torch.log10(signal.clamp(min=1e-30) / noise.clamp(min=1e-30))
    return torch.where(noise > 0, ratio, torch.full_like(ratio, _IDENTICAL)).clamp(max=_IDENTICAL)
