"""An edit as plain data: what is to be done to named constants, and which nodes give way to which.

Steps are of two kinds. An `Affine` is a linear map on one constant, number by number: W' = W * factor + offset, with a
factor and an offset that broadcast (a diagonal matrix from either side of a weight is such a factor). A `Rewrite` takes
nodes out of a network and puts others in their place. An edit is a sequence of steps, so edits are composed by joining
them, and inverted by inverting the steps in reverse order. Edits hold numbers and names, no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from bitwright.graph.network import Network, Node, Value


@final
@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """constant <- constant * factor + offset; both broadcast to the constant's shape and are float64."""

    constant: str
    factor: Tensor
    offset: Tensor

    def inverse(self) -> Affine:
        """The map back. The factor must have no zero in it."""
        assert bool((self.factor != 0).all()), f"{self.constant}: a factor of zero cannot be undone"
        return Affine(self.constant, 1 / self.factor, -self.offset / self.factor)

    def map(self, numbers: Tensor) -> Tensor:
        """The constant after it, computed in float64 and rounded once to the constant's own type."""
        return (numbers.double() * self.factor + self.offset).to(numbers.dtype)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Rewrite:
    """Nodes `before` give way to `after`, constants `dropped` go and `added` come.

    `values` says what is known of values that the new nodes make or read and the network did not have.
    """

    before: tuple[Node, ...]
    after: tuple[Node, ...]
    dropped: Mapping[str, Tensor] = field(default_factory=dict)
    added: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Value] = field(default_factory=dict)

    def inverse(self) -> Rewrite:
        """The rewrite back."""
        return Rewrite(self.after, self.before, self.added, self.dropped, self.values)

    def network(self, network: Network) -> Network:
        """The network after it: the new nodes run where the last of the old ones ran."""
        left = list(network.nodes)
        missing = [node.outputs[0] for node in self.before if node not in left]
        if missing:
            raise ValueError(f"the network has no longer the nodes that make {missing}: this edit belongs to another")
        place = max(left.index(node) for node in self.before)
        tail = [node for node in left[place + 1 :] if node not in self.before]
        nodes = [node for node in left[:place] if node not in self.before] + list(self.after) + tail
        constants = network.constants.difference(self.dropped).union(self.added)
        known = {name: _value(name, numbers) for name, numbers in self.added.items()}
        return replace(
            network, nodes=tuple(nodes), constants=constants, values={**network.values, **self.values, **known}
        )

    def constants(self, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The constants after it."""
        return {name: t for name, t in constants.items() if name not in self.dropped} | dict(self.added)


Step = Affine | Rewrite


@final
@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """Steps, in order. `Edit()` changes nothing."""

    steps: tuple[Step, ...] = ()

    def then(self, later: Edit) -> Edit:
        """This edit and then the other."""
        return Edit(self.steps + later.steps)

    def inverse(self) -> Edit:
        """The edit that undoes this one."""
        return Edit(tuple(step.inverse() for step in reversed(self.steps)))

    def constants(self, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """New constants; those that no step names are the same objects."""
        found = dict(constants)
        for step in self.steps:
            if isinstance(step, Rewrite):
                found = step.constants(found)
            else:
                found[step.constant] = step.map(found[step.constant])
        return found

    def network(self, network: Network) -> Network:
        """The network after all rewrites."""
        for step in self.steps:
            network = step.network(network) if isinstance(step, Rewrite) else network
        return network

    def apply(self, network: Network, constants: Mapping[str, Tensor]) -> tuple[Network, dict[str, Tensor]]:
        """Network and constants after it."""
        return self.network(network), self.constants(constants)


def times(constant: str, factor: Tensor) -> Affine:
    """Multiply a constant by a factor that broadcasts to it."""
    return Affine(constant, factor.double(), torch.zeros((), dtype=torch.float64))


def plus(constant: str, offset: Tensor) -> Affine:
    """Add an offset that broadcasts to it to a constant."""
    return Affine(constant, torch.ones((), dtype=torch.float64), offset.double())


def fresh(network: Network, wanted: str) -> str:
    """A name like this one that no value and no constant of the network has."""
    name, count = wanted, 1
    while name in network.values or name in network.constants or name in network.producers:
        count += 1
        name = f"{wanted}_{count}"
    return name


def _value(name: str, numbers: Tensor) -> Value:
    return Value(name, tuple(numbers.shape), str(numbers.dtype).removeprefix("torch."))
