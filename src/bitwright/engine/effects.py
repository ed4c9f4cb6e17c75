"""One pass of gradients: how the outputs of a network move with every value that will pass through codes.

The network runs as torch functions, a few samples at a time, and the gradient of its outputs along random signs is
taken at every point at once. That says what any range of any point will cost the outputs (`calib/effect.py`), without
running the network for it. Where an operator has no torch function, or nothing can be differentiated, nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from bitwright.calib import Effect, Histogram
from bitwright.calib.density import Density
from bitwright.engine.judge import BATCH, FAINT, teaching
from bitwright.engine.live_segment import LiveSegment, in_codes, open_segment
from bitwright.engine.observe import Observed
from bitwright.execute.interpret import InterpretError, UnsupportedOperator, can_interpret
from bitwright.graph.network import Network, Node
from bitwright.graph.segments import Segment
from bitwright.recipe.points import Placement
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.quantized import StoredPoint
from bitwright.store.sample_set import Samples

MEASURED = 64  # samples at most
ROOM = 1 << 23  # numbers of points at a time, unless one sample has more
BINS, JOINED = 1024, 4  # of what weighs by squared gradients; so many of them make one of the signed sums

_Grads = Mapping[str, tuple[Tensor, Tensor]]  # by value: it, and the gradient there


def measure_effects(
    source: OnnxSource, placement: Placement, observed: Observed, samples: Samples
) -> dict[str, Effect]:
    """The effect of every static point whose numbers are along the samples; empty where gradients cannot be had.

    Memory: three times the numbers of all points for a few samples, and 130 KB for each point.
    """
    network = source.network()
    points = [point for point in placement.points if point.value in observed.histograms]
    if not points or not all(can_interpret(node) for node in network.nodes):
        return {}
    stored = {p.value: StoredPoint(p.value, p.spec, p.group, p.readers) for p in points}
    sums = {name: _Sums(observed.histograms[name]) for name in stored}
    whole = _opened(source, network, stored)
    numbers = sum(observed.histograms[name].count for name in stored) // max(1, observed.count)
    size = max(1, min(BATCH, ROOM // max(1, numbers)))
    generator = torch.Generator().manual_seed(0)
    try:
        for batch in teaching(samples).dealt(MEASURED, size).batches(size):
            for name, (value, gradient) in _gradients(whole, batch, generator).items():
                sums[name].add(value, gradient, _rows(batch))
    except (InterpretError, UnsupportedOperator):
        return {}
    return {name: held.effect() for name, held in sums.items() if held.rows}


def _opened(source: OnnxSource, network: Network, points: Mapping[str, StoredPoint]) -> LiveSegment:
    """The whole network with a copy for every point; outputs in codes are read from their copies."""
    names = {name for node in network.nodes for name in node.inputs if name in network.constants}
    part = Segment(network.nodes, tuple(network.inputs), tuple(network.outputs))
    made = open_segment(part, source.read(sorted(names)), points, {})
    coded = [name for name in network.outputs if name in points and points[name].readers is None]
    fresh = [name for name in coded if name not in made.points]
    nodes = (*made.nodes, *[Node(in_codes(name), "Identity", (name,), (in_codes(name),)) for name in fresh])
    makes = tuple(in_codes(name) if name in coded else name for name in network.outputs)
    return replace(made, nodes=nodes, points=(*made.points, *fresh), makes=makes)


def _gradients(whole: LiveSegment, batch: Mapping[str, Tensor], generator: torch.Generator) -> _Grads:
    """Every point's value, and the gradient there of the outputs' sum with random signs, over the root of their energy.

    Several outputs count alike, as they do before the judge.
    """
    names = {in_codes(name): name for name in whole.points}
    copies: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> Tensor:
        if name not in names or not value.is_floating_point():
            return value
        copies[name] = value if value.requires_grad else value.detach().requires_grad_()
        return copies[name]

    made = [value for value in whole.run({}, batch, keep).values() if value.requires_grad]
    if not made or not copies:
        return {}
    rows = _rows(batch)
    signs = [_signs(value.detach(), rows, generator) / len(made) ** 0.5 for value in made]
    found = torch.autograd.grad(made, list(copies.values()), signs, allow_unused=True)
    held = zip(copies.items(), found, strict=True)
    return {names[copy]: (value.detach(), grad) for (copy, value), grad in held if grad is not None}


def _signs(value: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Random signs over the root of the energy of each sample; faint samples count as the judge counts them."""
    signs = torch.randint(0, 2, value.shape, generator=generator).to(value.dtype) * 2 - 1
    if not value.dim() or value.shape[0] != rows:
        return signs / value.square().sum().sqrt().clamp(min=1e-15)
    energy = value.double().square().reshape(rows, -1).sum(1)
    energy = energy.clamp(min=max(FAINT * float(energy.mean()), 1e-30))
    return signs / energy.sqrt().to(value.dtype).reshape([-1] + [1] * (value.dim() - 1))


def _rows(batch: Mapping[str, Tensor]) -> int:
    return max((len(value) for value in batch.values() if value.dim()), default=1)


@final
class _Sums:
    """What one point's gradients come to, so far."""

    def __init__(self, histogram: Histogram) -> None:
        self._low, self._high = (0.0, 0.0) if histogram.is_empty else (min(histogram.low, 0), max(histogram.high, 0))
        self._squares = torch.zeros(BINS, dtype=torch.float64)
        self._signed: list[tuple[Tensor, Tensor]] = []
        self.rows = 0

    def add(self, value: Tensor, gradient: Tensor, rows: int) -> None:
        """Take in a value and the gradient there, of so many samples; nothing where it has no row for each."""
        if not value.dim() or len(value) % rows or self._low == self._high:
            return
        x, g = value.reshape(rows, -1), gradient.reshape(rows, -1)
        g = torch.where(x == 0, 0.0, g).double()
        places = ((x - self._low) * (BINS / (self._high - self._low))).long().clamp_(0, BINS - 1)
        places += torch.arange(rows)[:, None] * BINS
        flat, count = places.reshape(-1), rows * BINS
        squares, pulls, moments = (
            torch.bincount(flat, weights.reshape(-1), count).reshape(rows, BINS) for weights in (g * g, g, g * x)
        )
        self._squares += squares.sum(0)
        self._signed.append((_prefixes(pulls), _prefixes(moments)))
        self.rows += rows

    def effect(self) -> Effect:
        edges = torch.linspace(self._low, self._high, BINS + 1, dtype=torch.float64)
        pulls, moments = (torch.cat(held) for held in zip(*self._signed, strict=True))
        return Effect(Density(edges, self._squares / self.rows), edges[::JOINED], pulls, moments)


def _prefixes(rows: Tensor) -> Tensor:
    """Sums below every edge of the joined bins."""
    joined = rows.reshape(len(rows), -1, JOINED).sum(2).cumsum(1)
    return torch.cat([torch.zeros(len(rows), 1, dtype=rows.dtype), joined], 1).float()
