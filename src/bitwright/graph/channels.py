"""Sites: places where every channel of a value may be scaled by a number of its own, and the network stays the same.

A producer (a linear operator, a normalization, a product with a constant vector) labels its output channels; the labels
are followed through everything that reads them (`labels.py`, `movement.py`). Where every path ends in the weight of a
linear operator, dividing the producer's channel i by s_i and multiplying what reads it by s_i changes nothing. Names of
layers play no part. What is found here is a proposal: `execute/prove.py` tries each site on numbers before it is used.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor

from bitwright.graph.labels import COMMUTES, NONE, Labels, Refused, Rule, Walk
from bitwright.graph.linear_node import linear_of
from bitwright.graph.movement import MOVES
from bitwright.graph.network import Network, Node

RULES: Mapping[str, Rule] = {**COMMUTES, **MOVES}


class Kind(Enum):
    """What makes the channels of a site."""

    LINEAR = "linear"  # Conv, ConvTranspose, Gemm, MatMul
    NORM = "norm"  # the gain (and shift) of a normalization
    GAIN = "gain"  # a product with a constant of one number per channel


@final
@dataclass(frozen=True, slots=True, eq=False)
class Tie:
    """A constant that takes part: number k of it belongs to channel `index[k]` of the site, to none where that is -1.

    `index` broadcasts to the constant's shape. `value`: for a sink, what its operator reads; for others, what the
    operator makes that reads the constant.
    """

    constant: str
    index: Int64[Tensor, "..."]
    value: str


@final
@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """What a sink reads: place k along `axis` of `value` is channel `labels[k]` of the site, none where that is -1."""

    value: str
    axis: int
    labels: Int64[Tensor, "places"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """Channels that may be scaled: `sources` and `shifts` are divided by s, `sinks` are multiplied.

    `value` is what the producer makes, `channels` how many it has. `shifts` are biases and bounds on the way. `reads`
    are what the sinks read, in the same order. `between` are the operators that the channels pass, in running order;
    sinks are not among them.
    """

    value: str
    kind: Kind
    channels: int
    sources: tuple[Tie, ...]
    shifts: tuple[Tie, ...]
    sinks: tuple[Tie, ...]
    reads: tuple[Read, ...]
    between: tuple[Node, ...]

    def __str__(self) -> str:
        return f"{self.value} -> {', '.join(dict.fromkeys(tie.constant for tie in self.sinks))}"


@final
@dataclass(frozen=True, slots=True)
class Refusal:
    """A producer (by the value it makes) whose channels cannot be scaled, and why."""

    value: str
    reason: str


@final
@dataclass(frozen=True, slots=True)
class Sites:
    """All producers of a network: those that are sites, and those that are not."""

    sites: tuple[Site, ...]
    refusals: tuple[Refusal, ...]


def find_sites(network: Network, constants: Mapping[str, Tensor]) -> Sites:
    """Follow the channels of every producer. `constants`: at least those that say shapes, places and bounds.

    Weights may be left out: of them only the shapes are read. Constants that are at hand and zero throughout need not
    hold one number per channel.
    """
    sites, refusals = [], []
    index = _Order(network)
    for node in network.nodes:
        walk = _Walk(network, constants, index)
        try:
            site = walk.run(node)
        except Refused as reason:
            refusals.append(Refusal(node.outputs[0], str(reason)))
        else:
            sites += [] if site is None else [site]
    return Sites(tuple(sites), tuple(refusals))


@dataclass(frozen=True)
class _Order:
    """The place of every node in running order, by its first output."""

    network: Network

    @cached_property
    def places(self) -> Mapping[str, int]:
        return {output: i for i, node in enumerate(self.network.nodes) for output in node.outputs if output}

    def readers(self, value: str) -> Iterator[int]:
        for node, place in self.network.readers(value):
            if place < 0:
                raise Refused(f"{node.op} reads {value} in a subgraph")
            yield self.places[next(output for output in node.outputs if output)]


@final
class _Walk(Walk):
    """The channels of one producer on their way."""

    def __init__(self, network: Network, constants: Mapping[str, Tensor], order: _Order) -> None:
        self._network, self._constants, self._order = network, constants, order
        self._labels: dict[str, Labels] = {}
        self._sources: list[Tie] = []
        self._shifts: list[Tie] = []
        self._sinks: list[Tie] = []
        self._reads: list[Read] = []
        self._now = ""

    @property
    def network(self) -> Network:
        return self._network

    def labels(self, value: str) -> Labels | None:
        return self._labels.get(value)

    def constant(self, value: str) -> Tensor | None:
        return self._constants.get(value) if value in self._network.constants else None

    def shift(self, constant: str, labels: Labels) -> None:
        self._shifts.append(self._tie(constant, labels))

    def sink(self, node: Node, labels: Labels) -> None:
        linear = linear_of(self._network, node)
        assert linear is not None
        index = torch.where(linear.reads < 0, NONE, labels[linear.reads])
        self._sinks.append(Tie(self._alone(linear.weight), index, node.inputs[0]))
        self._reads.append(Read(node.inputs[0], linear.axis, labels))

    def run(self, node: Node) -> Site | None:
        """The site of this node's channels; None if it has none to label. Raises Refused."""
        found = self._start(node)
        if found is None:
            return None
        kind, channels, labels = found
        self._labels[node.outputs[0]] = labels
        between = self._follow(node.outputs[0])
        if not self._sinks:
            raise Refused("no linear operator reads it")
        ties = tuple(self._sources), tuple(self._shifts), tuple(self._sinks), tuple(self._reads)
        return Site(node.outputs[0], kind, channels, *ties, between)

    def _follow(self, start: str) -> tuple[Node, ...]:
        """Step through all that reads labelled values, in running order."""
        queue = self._put(start, [])
        between: list[Node] = []
        last = -1
        while queue:
            place = heapq.heappop(queue)
            if place == last:
                continue
            node, last = self._network.nodes[place], place
            rule = RULES.get(node.op) if node.domain in ("", "ai.onnx") else None
            if rule is None:
                raise Refused(f"{node.op} ({node.outputs[0]}) is not known to commute with a scale")
            self._now = node.outputs[0]
            made = rule(self, node)
            between += [node] if made else []
            for name, labels in zip(node.outputs, made, strict=False):
                if name and bool((labels != NONE).any()):
                    self._labels[name] = labels
                    queue = self._put(name, queue)
        return tuple(between)

    def _put(self, value: str, queue: list[int]) -> list[int]:
        if value in self._network.outputs:
            raise Refused(f"it reaches {value}, which the network gives out")
        for place in self._order.readers(value):
            heapq.heappush(queue, place)
        return queue

    def _start(self, node: Node) -> tuple[Kind, int, Labels] | None:
        self._now = node.outputs[0]
        if linear := linear_of(self._network, node):
            labels = torch.arange(linear.outputs)
            self._sources.append(Tie(self._alone(linear.weight), linear.writes, self._now))
            labels = labels.reshape(self._axis_shape(linear.outputs, linear.axis))
            if linear.bias is not None:
                if linear.bias not in self._network.constants:
                    raise Refused(f"its bias {linear.bias} is not a constant")
                self.shift(linear.bias, torch.arange(linear.outputs).reshape(1, -1))
            return Kind.LINEAR, linear.outputs, labels
        if node.op in NORMS:
            return self._norm(node)
        if node.op == "Mul" and (gain := self._gain(node)):
            return self._gained(gain)
        return None

    def _axis_shape(self, size: int, axis: int) -> list[int]:
        shape = self._known_shape(self._now)
        if shape[axis] not in (size, None):
            raise Refused(f"it has {shape[axis]} channels, but {size} numbers for them")
        return [size if i == axis % len(shape) else 1 for i in range(len(shape))]

    def _known_shape(self, value: str) -> tuple[int | None, ...]:
        found = self._network.values.get(value)
        if found is None or found.shape is None:
            raise Refused(f"the shape of {value} is not known")
        return found.shape

    def _norm(self, node: Node) -> tuple[Kind, int, Labels] | None:
        gain = node.inputs[1] if len(node.inputs) > 1 else ""
        if gain not in self._network.constants:
            return None
        shape = self._known_shape(gain)
        size = shape[0] if shape else None
        if size is None:
            raise Refused(f"the gain {gain} of {node.op} is not one number per channel")
        labels = torch.arange(size).reshape(size, *[1] * (len(shape) - 1))
        self._sources.append(Tie(self._alone(gain), labels, self._now))
        if len(node.inputs) > 2 and node.inputs[2]:
            if node.inputs[2] not in self._network.constants:
                raise Refused(f"its shift {node.inputs[2]} is not a constant")
            self.shift(node.inputs[2], labels)
        axis = NORMS[node.op] if len(shape) == 1 else -len(shape)  # over several axes: the first of them holds channels
        return Kind.NORM, size, labels.reshape(self._axis_shape(size, axis))

    def _gain(self, node: Node) -> str | None:
        """The constant of a Mul that holds one number per channel along one axis."""
        for name in node.inputs:
            if name in self._network.constants:
                shape = self._known_shape(name)
                if [size for size in shape if size != 1] and shape.count(1) == len(shape) - 1:
                    return name
        return None

    def _gained(self, gain: str) -> tuple[Kind, int, Labels]:
        shape, rank = self._known_shape(gain), len(self._known_shape(self._now))
        sizes = [1 if size is None else size for size in shape]
        labels = torch.arange(max(sizes)).reshape(sizes)
        self._sources.append(Tie(self._alone(gain), labels, self._now))
        return Kind.GAIN, max(sizes), labels.reshape([1] * (rank - len(sizes)) + sizes)

    def _alone(self, constant: str) -> str:
        if len(self._network.readers(constant)) > 1 or constant in self._network.outputs:
            raise Refused(f"{constant} is read in several places")
        return constant

    def _tie(self, constant: str, labels: Labels) -> Tie:
        """Labels as a constant that broadcasts against them has them; refuses if it holds too few numbers."""
        shape = self._known_shape(self._alone(constant))
        if any(size > 1 for size in labels.shape[: labels.dim() - len(shape)]):
            raise Refused(f"{constant} has one number for several channels")
        index = labels.reshape(labels.shape[max(0, labels.dim() - len(shape)) :])
        index = index.reshape((*[1] * (len(shape) - index.dim()), *index.shape))
        if any(have > 1 and have != size for have, size in zip(index.shape, shape, strict=True)):
            raise Refused(f"{constant} has one number for several channels")
        return Tie(constant, index, self._now)


NORMS: Mapping[str, int] = {  # with inputs (x, gain, shift), and the axis of the channels
    "LayerNormalization": -1,
    "RMSNormalization": -1,
    "BatchNormalization": 1,
    "InstanceNormalization": 1,
    "GroupNormalization": 1,
}
