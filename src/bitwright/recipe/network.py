"""Recipes for whole networks, and what one comes to on a network: weights, points, and what stays float.

A recipe is a sentence: so many bits for weights and activations on that target, ranges by this rule, weights by that
solver. The first and the last linear operator may have bits of their own: they read the picture and make the answer,
and are few numbers of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import final

from bitwright.calib import Auto, Average, MeanMinMax, MinMaxRange, Percentile, RangeRule
from bitwright.graph.network import Network, Node
from bitwright.numerics import PER_ROW, PER_TENSOR, AbsMax, AbsMse, Int, Spec
from bitwright.recipe.points import Placement, Point, place
from bitwright.recipe.targets import Role, Target, find_target
from bitwright.solvers import Feedback, Solver

RANGES = (Auto(), Auto(average=Average.NOISE), MeanMinMax(), MinMaxRange(), Percentile(99.999))


@final
@dataclass(frozen=True, slots=True)
class NetworkRecipe:
    """What the user asks for. `edge_bits`: weights and activations of the first and the last linear operator.

    `per_channel` False: one scale for a whole weight. `ranges`: rules, of which the one is taken with which the outputs
    are best on held-out samples. `keep`: names of nodes that shall stay float.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    edge_bits: int = 8
    target: str = "x86-vnni"
    per_channel: bool = True
    ranges: tuple[RangeRule, ...] = RANGES
    solver: Solver = field(default_factory=lambda: Feedback(fitter=AbsMax(), sweeps=4))
    corrects_bias: bool = True
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, bits in (
            ("weight", self.weight_bits),
            ("activation", self.activation_bits),
            ("edge", self.edge_bits),
        ):
            if not 2 <= bits <= 8:
                raise ValueError(f"{name} bits are from 2 to 8; found {bits}")
        find_target(self.target)


@final
@dataclass(frozen=True, slots=True)
class WeightStep:
    """A constant that becomes codes, for these nodes. `name` is the constant's."""

    name: str
    spec: Spec
    nodes: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """What will be done: weights in running order, points, and the nodes that stay float with the reason."""

    target: Target
    weights: tuple[WeightStep, ...]
    placement: Placement


class NetworkPlanError(ValueError):
    """The recipe cannot work on this network; says why and what to change."""


def plan_network(network: Network, recipe: NetworkRecipe) -> NetworkPlan:
    """What the recipe comes to on a network; NetworkPlanError where nothing would run in integers."""
    target = find_target(recipe.target)
    unknown = sorted(set(recipe.keep) - {node.name for node in network.nodes})
    if unknown:
        raise NetworkPlanError(f"{unknown[0]}: asked to stay float, but the network has no node of this name")
    kept = dict.fromkeys(recipe.keep, "asked to stay float")
    placement = place(network, target, target.activation(recipe.activation_bits), kept)
    linear = [node for node in network.nodes if placement.integer.get(node.name) is Role.LINEAR]
    if not linear:
        reasons = sorted(set(placement.floats.values()))
        raise NetworkPlanError(
            f"no operator of this network can run in integers on {target.name}: {'; '.join(reasons[:4])}"
        )
    edges = {linear[0].name, linear[-1].name}
    if recipe.activation_bits != recipe.edge_bits:
        placement = _wider(placement, linear, edges, target.activation(recipe.edge_bits))
    return NetworkPlan(target, _weights(linear, edges, recipe, target), placement)


def _weights(linear: list[Node], edges: set[str], recipe: NetworkRecipe, target: Target) -> tuple[WeightStep, ...]:
    readers: dict[str, list[str]] = {}
    for node in linear:
        readers.setdefault(node.inputs[1], []).append(node.name)
    steps = []
    for name, nodes in readers.items():
        bits = recipe.edge_bits if edges & set(nodes) else recipe.weight_bits
        spec = Spec(Int(min(bits, target.weight_bits)), PER_ROW if recipe.per_channel else PER_TENSOR)
        steps.append(WeightStep(name, spec, tuple(nodes)))
    return tuple(steps)


def _wider(placement: Placement, linear: list[Node], edges: set[str], spec: Spec) -> Placement:
    """What the first and the last linear operator read, in the bits of the edges."""
    read = {node.inputs[0] for node in linear if node.name in edges}
    groups = {point.group for point in placement.points if point.value in read}

    def widened(point: Point) -> Point:
        return replace(point, spec=spec) if point.group in groups else point

    return replace(placement, points=tuple(map(widened, placement.points)))


def int8(target: str = "x86-vnni") -> NetworkRecipe:
    """8-bit weights, one scale per output channel, and 8-bit activations."""
    return NetworkRecipe(target=target)


def w4a8(target: str = "x86-vnni") -> NetworkRecipe:
    """4-bit weights and 8-bit activations; the first and last linear operator in 8 bits."""
    return NetworkRecipe(weight_bits=4, target=target, solver=Feedback(fitter=AbsMse(), sweeps=4))


def w4a4(target: str = "x86-vnni") -> NetworkRecipe:
    """4-bit weights and activations; the first and last linear operator in 8 bits."""
    return replace(w4a8(target), activation_bits=4)


NETWORK_PRESETS: Mapping[str, Callable[[str], NetworkRecipe]] = {
    function.__name__: function for function in (int8, w4a8, w4a4)
}


def find_network_recipe(name: str, target: str) -> NetworkRecipe:
    """The preset of this name for a target; ValueError lists those there are."""
    if name not in NETWORK_PRESETS:
        raise ValueError(f"{name!r} is no recipe for networks; choose one of {', '.join(NETWORK_PRESETS)}")
    return NETWORK_PRESETS[name](target)
