"""A segment of a network as a differentiable piece, with all that is to be chosen in it by name.

What passes through codes does so in nodes of its own: every point of the segment becomes a node that copies the value,
and those that read it in codes read the copy. So a value may be read in codes by one node and in float by another, and
what the segment hands on is what the float network would hand on, too. Likewise what is added to a bias is added by a
node of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from bitwright.execute.interpret import interpret
from bitwright.graph.network import Node
from bitwright.graph.segments import Segment
from bitwright.numerics import Params, Spec
from bitwright.solvers import Activation
from bitwright.solvers.reconstruction import Quantize
from bitwright.store.quantized import StoredPoint


@final
@dataclass(frozen=True, slots=True, eq=False)
class LiveSegment:
    """Nodes that run as torch functions, what they read and make, and the constants that stay as they are.

    `points`: values that pass through codes in it. `offsets`: what is added at first, by the name of the offset.
    `fixed`: points that are not learned here, by the name of the copy.
    """

    nodes: tuple[Node, ...]
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    constants: Mapping[str, Tensor]
    points: tuple[str, ...]
    offsets: Mapping[str, Tensor]
    fixed: Mapping[str, Activation] = field(default_factory=dict)

    def with_constants(self, constants: Mapping[str, Tensor]) -> LiveSegment:
        """The same with these in the place of its own."""
        return replace(self, constants={**self.constants, **constants})

    def with_fixed(self, points: Mapping[str, Activation]) -> LiveSegment:
        """The same with these points fixed, too."""
        return replace(self, fixed={**self.fixed, **points})

    def without_codes(self) -> LiveSegment:
        """The float segment."""
        return replace(self, fixed={}, offsets={name: torch.zeros_like(one) for name, one in self.offsets.items()})

    def run(self, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], quantize: Quantize) -> dict[str, Tensor]:
        """What the segment makes, by name. `weights`: constants and offsets in the place of its own."""

        def change(name: str, value: Tensor) -> Tensor:
            return self.fixed[name].apply(value) if name in self.fixed else quantize(name, value)

        known = {**inputs, **self.offsets, **self.constants, **weights}
        return interpret(self.nodes, known, self.makes, change)

    def forward(self, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], quantize: Quantize) -> Tensor:
        """All of that as one tensor, samples along its first axis; floating-point values only."""
        return joined(self.run(weights, inputs, quantize).values())


def joined(made: Collection[Tensor]) -> Tensor:
    """Values as one tensor [samples, ...]; a single one as it is."""
    floats = [value.float() for value in made if value.is_floating_point()]
    return floats[0] if len(floats) == 1 else torch.cat([value.flatten(1) for value in floats], 1)


def in_codes(value: str) -> str:
    """The name of the copy of a value that passes through codes."""
    return f"{value} (in codes)"


def offset_of(node: str) -> str:
    """The name of what is added to what a node makes."""
    return f"{node} (offset)"


def open_segment(
    part: Segment,
    constants: Mapping[str, Tensor],
    points: Mapping[str, StoredPoint],
    offsets: Mapping[str, Tensor],
) -> LiveSegment:
    """A segment with a copy for every point and a sum for every offset; `offsets` are by the name of the node."""
    nodes: list[Node] = []
    copied: dict[str, None] = {}
    for node in part.nodes:
        renamed = {name: in_codes(name) for name in node.inputs if _is_read_so(points.get(name), node.name)}
        fresh = [name for name in renamed if name not in copied]
        nodes += [Node(in_codes(name), "Identity", (name,), (in_codes(name),)) for name in fresh]
        copied |= dict.fromkeys(fresh)
        inputs = tuple(renamed.get(name, name) for name in node.inputs)
        if node.name not in offsets:
            nodes.append(replace(node, inputs=inputs))
            continue
        made, *others = node.outputs
        bare, offset = f"{made} (bare)", offset_of(node.name)
        nodes.append(replace(node, inputs=inputs, outputs=(bare, *others)))
        nodes.append(Node(offset, "Add", (bare, offset), (made,)))
    named = {offset_of(name): offset for name, offset in offsets.items()}
    return LiveSegment(tuple(nodes), part.reads, part.makes, constants, tuple(copied), named)


def activation_of(point: StoredPoint) -> Activation:
    """How a static point quantizes."""
    assert point.params is not None
    return Activation(point.spec, point.params)


def range_of(spec: Spec, params: Params) -> tuple[float, float]:
    """The numbers that the lowest and the highest code stand for."""
    zero = 0.0 if params.zero is None else float(params.zero)
    scale = float(params.scale)
    return (spec.format.low - zero) * scale, (spec.format.high - zero) * scale


def _is_read_so(point: StoredPoint | None, reader: str) -> bool:
    return point is not None and (point.readers is None or reader in point.readers)
