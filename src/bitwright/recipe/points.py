"""Where quantizers go: which values of a network pass through codes, so that its operators run in integers.

Two walks decide. Backwards: a value is *wanted* in codes if a linear operator reads it, straight or through operators
that can run in integers themselves. Forwards: a value is *offered* in codes if an integer operator makes it. A sum, an
average or a table runs in integers where its output is wanted and an input is offered: inside a run of integers,
never for itself. Then every input of an integer operator is a point, and so is its output where that is wanted, or
where the engine has no kernel that gives out floats. A ReLU or Clip is part of the range of the operator before it: the
point lies behind it. Operators that move numbers keep their scale: points joined by them share one range. An Identity,
of which simplified networks have none, is there to give a copy of a value codes of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

from bitwright.graph.network import Network, Node
from bitwright.numerics import Int, Spec
from bitwright.recipe.roles import role_of
from bitwright.recipe.targets import APART, Role, Target

NEVER_NEGATIVE = frozenset({"Softmax", "Sigmoid", "Relu", "Abs", "Exp", "Sqrt"})


@final
@dataclass(frozen=True, slots=True)
class Point:
    """A value that passes through codes. `group` is shared by all points of one scale: the first value of the group.

    `readers`: the nodes that read the quantized value; None: everything does, the network's output too, because the
    float one exists nowhere. `dynamic`: its range is measured when the network runs.
    """

    value: str
    spec: Spec
    group: str
    readers: tuple[str, ...] | None = None
    dynamic: bool = False


@final
@dataclass(frozen=True, slots=True)
class Placement:
    """Points in running order, the nodes that run in integers with their roles, and why the others do not."""

    points: tuple[Point, ...]
    integer: Mapping[str, Role]
    floats: Mapping[str, str]

    def sources(self, network: Network) -> dict[str, tuple[str, ...]]:
        """By group, the values whose numbers its range has to cover: those that are not copies of others in it.

        Groups whose range is measured when the network runs are not in it.
        """
        members: dict[str, list[str]] = {}
        for point in self.points:
            if not point.dynamic:
                members.setdefault(point.group, []).append(point.value)
        return {
            group: tuple(value for value in held if not self._is_copy(network, value, held))
            for group, held in members.items()
        }

    def _is_copy(self, network: Network, value: str, held: list[str]) -> bool:
        node = network.producers.get(value)
        if node is None or self.integer.get(node.name) not in (Role.MOVE, Role.JOIN):
            return False
        return any(name in held for name in node.inputs)


def place(network: Network, target: Target, spec: Spec, is_kept: Mapping[str, str] | None = None) -> Placement:
    """Points for static activations of this spec. `is_kept`: nodes that shall stay float, and why."""
    return _Walk(network, target, dict(is_kept or {})).placement(spec)


class _Walk:
    """The two walks over one network."""

    def __init__(self, network: Network, target: Target, kept: dict[str, str]) -> None:
        self.network, self.target = network, target
        self.roles: dict[str, Role] = {}
        self.floats: dict[str, str] = {}
        for node in network.nodes:
            role, reason = (Role.FLOAT, kept[node.name]) if node.name in kept else role_of(network, node, target)
            self.roles[node.name] = role
            if role is Role.FLOAT:
                self.floats[node.name] = reason
        self.wanted: set[str] = set()
        for node in reversed(network.nodes):
            self.wanted.update(self._wants(node))
        self.offered: set[str] = set()
        for node in network.nodes:
            if self._runs(node):
                self.offered.update(name for name in node.outputs if name)
        self.groups: dict[str, str] = {}

    def _wants(self, node: Node) -> tuple[str, ...]:
        """Which of a node's inputs it wants in codes, given what is wanted of its outputs."""
        role = self.roles[node.name]
        if role is Role.FLOAT or role in APART:
            return ()
        if role in (Role.LINEAR, Role.PRODUCT) or any(name in self.wanted for name in node.outputs):
            return self._activations(node)
        return ()

    def _activations(self, node: Node) -> tuple[str, ...]:
        """The inputs that are activations."""
        if self.roles[node.name] in (Role.PRODUCT, Role.BLEND, Role.JOIN):
            return tuple(name for name in node.inputs if name and name not in self.network.constants)
        return node.inputs[:1]

    def _runs(self, node: Node) -> bool:
        """Whether a node runs in integers, once that is known of those before it."""
        role = self.roles[node.name]
        if role in (Role.LINEAR, Role.PRODUCT):
            return True
        if role is Role.FLOAT or role in APART or not any(name in self.offered for name in self._activations(node)):
            return False
        return role in (Role.MOVE, Role.CLAMP) or any(name in self.wanted for name in node.outputs)

    def _clamped(self, value: str) -> str:
        """The value behind the clamps that follow and alone read this one."""
        readers = self.network.readers(value)
        if len(readers) == 1 and self.roles[readers[0][0].name] is Role.CLAMP and value not in self.network.outputs:
            return self._clamped(readers[0][0].made)
        return value

    def _needed(self) -> Iterator[tuple[str, Node]]:
        """Every value that has to pass through codes, and the node because of which."""
        for node in self.network.nodes:
            role = self.roles[node.name]
            if role is Role.FLOAT or node.made not in self.offered:
                continue
            if role is Role.MOVE:
                if node.inputs[0] in self.offered:
                    yield from ((name, node) for name in node.outputs if name in self.wanted)
                continue
            if role is Role.CLAMP:
                continue
            yield from ((name, node) for name in self._activations(node))
            needs = role in self.target.needs_output or node.op in self.target.needs_output_ops
            made = self._clamped(node.made)
            if needs or made in self.wanted:
                yield made, node

    def placement(self, spec: Spec) -> Placement:
        summed = set(self._summed())
        needed = dict.fromkeys(name for name, _ in self._needed() if name not in summed)
        for node in self.network.nodes:
            self._join(node, needed)
        order = {name: i for i, name in enumerate(self.network.inputs)}
        order |= {name: len(order) + i for i, node in enumerate(self.network.nodes) for name in node.outputs}
        signed = self._signed()
        points = tuple(
            Point(name, _symmetric(spec) if self._root(name) in signed else spec, self._root(name), self._readers(name))
            for name in sorted(needed, key=order.__getitem__)
        )
        return Placement(points, self._integer(needed), self._floats())

    def _summed(self) -> Iterator[str]:
        """What convolutions make that the engine adds to another value before it is rounded: the later one's."""
        order = {node.made: place for place, node in enumerate(self.network.nodes)}
        for node in self.network.nodes:
            if not self.target.fuses_sums or node.op != "Add" or node.made not in self.offered:
                continue
            shapes = {self.network.values[name].shape for name in node.inputs}
            made = [name for name in node.inputs if self._is_for_one(name)]
            if made and len(shapes) == 1:
                yield max(made, key=order.__getitem__)

    def _is_for_one(self, value: str) -> bool:
        """Whether a convolution in integers makes this, and one node alone reads it."""
        maker = self.network.producers.get(value)
        is_made = maker is not None and maker.op == "Conv" and self.roles[maker.name] is Role.LINEAR
        return is_made and len(self.network.readers(value)) == 1 and value not in self.network.outputs

    def _join(self, node: Node, needed: Mapping[str, None]) -> None:
        """Let the points around a node that copies numbers share one scale."""
        role = self.roles[node.name]
        is_moved = role is Role.MOVE and node.op != "Identity"
        shares = is_moved or (role is Role.JOIN and self.target.joins_share)
        if not shares or node.made not in self.offered:
            return
        held = [name for name in (*self._activations(node), *node.outputs) if name in needed]
        for name in held[1:]:
            first, other = self._root(held[0]), self._root(name)
            if first != other:
                self.groups[other] = first

    def _signed(self) -> set[str]:
        """The groups that have to be signed and without a zero, because products of two activations read them."""
        if not self.target.signs_factors:
            return set()
        products = [node for node in self.network.nodes if self.roles[node.name] is Role.PRODUCT]
        factors = {node.inputs[1] for node in products}
        factors |= {node.inputs[0] for node in products if not self._is_never_negative(node.inputs[0])}
        return {self._root(name) for name in factors}

    def _is_never_negative(self, value: str) -> bool:
        """Whether no number of a value can be below zero, so that unsigned codes of it need no zero."""
        node = self.network.producers.get(value)
        if node is None:
            return False
        if node.op in NEVER_NEGATIVE:
            return True
        if node.op == "Where":  # what it chooses among; of a constant it is assumed
            return all(name in self.network.constants or self._is_never_negative(name) for name in node.inputs[1:])
        return self.roles[node.name] is Role.MOVE and self._is_never_negative(node.inputs[0])

    def _root(self, name: str) -> str:
        while name in self.groups:
            name = self.groups[name]
        return name

    def _readers(self, name: str) -> tuple[str, ...] | None:
        """Who reads the quantized value of a point."""
        producer = self.network.producers.get(name)
        if producer is not None and name in self.offered:
            return None
        reading = [
            node.name
            for node, place in self.network.readers(name)
            if node.made in self.offered and place >= 0 and name in self._activations(node)
        ]
        return tuple(dict.fromkeys(reading))

    def _integer(self, needed: Mapping[str, None]) -> dict[str, Role]:
        return {
            node.name: self.roles[node.name]
            for node in self.network.nodes
            if (node.made in self.offered and self.roles[node.name] is not Role.FLOAT) or self.roles[node.name] in APART
        }

    def _floats(self) -> dict[str, str]:
        """Why each node that stays float does."""
        reasons = dict(self.floats)
        for node in self.network.nodes:
            is_apart = self.roles[node.name] in APART
            if is_apart or node.made in self.offered or node.name in reasons:
                continue
            wanted = any(name in self.wanted for name in node.outputs)
            reasons[node.name] = "what it reads is float" if wanted else "what it makes is only read by float operators"
        return reasons


def _symmetric(spec: Spec) -> Spec:
    """The same bits, signed and without a zero."""
    return Spec(Int(spec.format.bits), spec.tile) if isinstance(spec.format, Int) else spec
