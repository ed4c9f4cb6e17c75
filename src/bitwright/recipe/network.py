"""Recipes for whole networks, and what one comes to on a network: weights, points, and what stays float.

A recipe is a sentence: so many bits for weights and activations on that target, ranges by this rule, weights by that
solver. The first and the last linear operator may have bits of their own: they read the picture and make the answer,
and are few numbers of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import assert_never, final

from bitwright.calib import Auto, Average, LeastEffect, MeanMinMax, MinMaxRange, Percentile, RangeRule
from bitwright.graph.network import Network, Node
from bitwright.numerics import PER_ROW, PER_TENSOR, AbsMax, AbsMse, Float8, Int, Spec, per_group
from bitwright.recipe.forms import GROUPS, Activations, columns_of, group_for, place_products, ragged_rows
from bitwright.recipe.points import Placement, place
from bitwright.recipe.roles import in_small_groups, recurrent_weights
from bitwright.recipe.targets import Role, Target, find_target
from bitwright.solvers import BlockSolver, Brecq, Feedback, QDrop, Solver

BRANCHES = (
    "; it decides in an If what it does, and what is inside cannot be quantized: `bitwright specialize` writes a file "
    "for inputs of one value or size, in which one branch has taken the place of the If"
)
RANGES = (Auto(), Auto(average=Average.NOISE), MeanMinMax(), MinMaxRange(), Percentile(99.999), LeastEffect())


class Number(Enum):
    """What codes of 8 bits are; the value is how recipes spell it."""

    INTEGER = "integer"
    FLOAT8 = "float8"  # E4M3


@final
@dataclass(frozen=True, slots=True)
class NetworkRecipe:
    """What the user asks for. `edge_bits`: weights and activations of the first and the last linear operator, what the
    first makes among them.

    `activations`: how they are quantized; `activation_bits` and `edge_bits` are for static ones that are multiplied,
    and what is only added, averaged or joined has the wider of the two. `number` FLOAT8: weights and activations are
    8-bit floats. `per_channel` False: one scale for a whole weight. `group`: so many columns of a row share a scale, or
    half as many and so on, where that does not divide the row. `has_zero`: weights are unsigned, with a zero for every
    scale. `ranges`: rules, of which the one is taken with which the outputs are best on held-out samples. `learn`: how
    roundings are learned once all are made, if they are. `keep`: names of nodes that shall stay float.

    Edits of the float network, each taken only where held-out outputs come out no worse: `equalize` balances channels
    across layers, `absorb` moves what is always there in an activation into biases, `smooth` moves outlier channels of
    activations into weights, by that of these alphas (0 to 1) that serves best, `level` makes channels of activations
    equally large where depthwise convolutions read them.

    `relief`: operators whose share of the outputs' error is at least a twentieth and four times their share of the
    network's products stay float, the best first, up to a quarter of the products. `min_sqnr`: decibels that the
    outputs are to have, on held-out and on all samples; as many operators stay float as that takes.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    edge_bits: int = 8
    target: str = "x86-vnni"
    activations: Activations = Activations.STATIC
    number: Number = Number.INTEGER
    per_channel: bool = True
    group: int | None = None
    has_zero: bool = False
    ranges: tuple[RangeRule, ...] = RANGES
    solver: Solver = field(default_factory=lambda: Feedback(fitter=AbsMax(), sweeps=4))
    corrects_bias: bool = True
    learn: BlockSolver | None = None
    equalize: bool = False
    absorb: bool = False
    level: bool = False
    smooth: tuple[float, ...] = ()
    relief: bool = False
    min_sqnr: float | None = None
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, bits in (
            ("weight", self.weight_bits),
            ("activation", self.activation_bits),
            ("edge", self.edge_bits),
        ):
            if not 2 <= bits <= 8:
                raise ValueError(f"{name} bits are from 2 to 8; found {bits}")
        if self.activations is not Activations.FLOAT and (self.group is not None or self.has_zero):
            raise ValueError(
                "engines multiply activations in codes with weights that have one scale per row and no zero: leave out "
                "group and has_zero, or use activations = 'float'"
            )
        if self.group is not None and self.group not in GROUPS:
            raise ValueError(f"a group is of {', '.join(map(str, GROUPS))} columns; found {self.group}")
        if self.learn is not None and self.activations is Activations.DYNAMIC:
            raise ValueError("roundings are not learned with dynamic activations; leave out learn")
        if self.number is Number.FLOAT8 and self.activations is not Activations.STATIC:
            raise ValueError("8-bit floats are for static activations; use activations = 'static'")
        if self.activations is Activations.DYNAMIC and not find_target(self.target).has_dynamic:
            raise ValueError(f"{self.target} takes static activations only; use the recipe int8")
        if self.min_sqnr is not None and not self.min_sqnr > 0:
            raise ValueError(f"min_sqnr is in decibels, above 0; found {self.min_sqnr}")
        if not all(0 <= alpha <= 1 for alpha in self.smooth):
            raise ValueError(f"alphas of smoothing are from 0 to 1; found {self.smooth}")

    @property
    def has_two_widths(self) -> bool:
        """Whether some activations in codes have more bits than others."""
        is_static = self.activations is Activations.STATIC and self.number is Number.INTEGER
        return is_static and self.activation_bits != self.edge_bits

    @property
    def runs_in_integers(self) -> bool:
        """Whether there are engines that multiply its activations as codes."""
        if self.activations is Activations.STATIC:
            return self.number is Number.INTEGER and self.activation_bits == 8
        return self.activations is Activations.DYNAMIC

    @property
    def needs_samples(self) -> bool:
        """Whether it cannot work without calibration samples; where it can they still make weights better."""
        is_tried = self.equalize or self.absorb or self.level or bool(self.smooth) or self.learn is not None
        return self.activations is Activations.STATIC or is_tried


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


def runs_gates(recipe: NetworkRecipe) -> bool:
    """Whether a hard gate (HardSigmoid) runs in integers."""
    is_static = recipe.activations is Activations.STATIC and recipe.number is not Number.FLOAT8
    return is_static and "HardSigmoid" in find_target(recipe.target).curves


def plan_network(network: Network, recipe: NetworkRecipe, relieved: Mapping[str, str] | None = None) -> NetworkPlan:
    """What the recipe comes to on a network; NetworkPlanError where nothing would run in integers.

    `relieved`: nodes that stay float beside those the recipe names, and why.
    """
    target = find_target(recipe.target)
    unknown = sorted(set(recipe.keep) - {node.name for node in network.nodes})
    if unknown:
        raise NetworkPlanError(f"{unknown[0]}: asked to stay float, but the network has no node of this name")
    asked = dict.fromkeys(recipe.keep, "asked to stay float")
    kept = _slow(network, recipe, target) | asked
    placement = _placed(network, recipe, target, kept)
    if not _linear(network, placement):  # better slow than refused
        kept, placement = asked, _placed(network, recipe, target, asked)
    ends = _linear(network, placement)
    if relieved:
        placement = _placed(network, recipe, target, kept | dict(relieved))
    linear, recurrent = _linear(network, placement), _recurrent(network, placement)
    if not linear and not recurrent:
        reasons = sorted(set(placement.floats.values()))
        raise NetworkPlanError(
            f"no operator of this network can run in integers on {target.name}: {'; '.join(reasons[:4])}"
            f"{BRANCHES if any(node.op == 'If' for node in network.nodes) else ''}"
        )
    edges = {ends[0].name, ends[-1].name} if ends and recipe.activations is Activations.STATIC else set()
    if recipe.has_two_widths:
        placement = _narrowed(network, placement, edges, recipe)
    apart = (*_recurrent_weights(recurrent, target), *_tables(network, placement))
    steps = (*_weights(network, linear, edges, recipe), *apart)
    return NetworkPlan(target, steps, placement)


def _linear(network: Network, placement: Placement) -> list[Node]:
    """The linear operators that run in integers."""
    return [node for node in network.nodes if placement.integer.get(node.name) is Role.LINEAR]


def _recurrent(network: Network, placement: Placement) -> list[Node]:
    """The recurrent operators that run in integers."""
    return [node for node in network.nodes if placement.integer.get(node.name) is Role.RECURRENT]


def _slow(network: Network, recipe: NetworkRecipe, target: Target) -> dict[str, str]:
    """Operators that stay float because their integer forms are slow, or not for this recipe; and why."""
    if recipe.runs_in_integers:
        return in_small_groups(network, target)
    if recipe.activations is Activations.FLOAT:
        return {}
    return {node.name: "it takes integers of 8 bits only" for node in network.nodes if node.op in target.recurrent}


def _placed(network: Network, recipe: NetworkRecipe, target: Target, kept: Mapping[str, str]) -> Placement:
    """Where codes go, by how activations are quantized."""
    match recipe.activations:
        case Activations.STATIC if recipe.number is Number.FLOAT8:
            return place(network, target, Spec(Float8(), PER_TENSOR), kept)
        case Activations.STATIC:
            return place(network, target, target.activation(recipe.activation_bits), kept)
        case Activations.DYNAMIC:
            form = Int(8, signed=False)  # what DynamicQuantizeLinear makes, on every target
            return place_products(network, target, Spec(form, PER_TENSOR, zero=Spec(form)), kept)
        case Activations.FLOAT:
            kept = {**ragged_rows(network, recipe.group), **kept}
            return place_products(network, target, None, kept)
    assert_never(recipe.activations)


def _weights(network: Network, linear: list[Node], edges: set[str], recipe: NetworkRecipe) -> tuple[WeightStep, ...]:
    readers: dict[str, list[Node]] = {}
    for node in linear:
        readers.setdefault(node.inputs[1], []).append(node)
    steps = []
    for name, nodes in readers.items():
        held = tuple(node.name for node in nodes)
        bits = recipe.edge_bits if edges & set(held) else recipe.weight_bits
        steps.append(WeightStep(name, _spec(recipe, bits, columns_of(network, nodes[0])), held))
    return tuple(steps)


def _recurrent_weights(nodes: list[Node], target: Target) -> tuple[WeightStep, ...]:
    """Both weights of every recurrent operator: what engines take, whatever the recipe has for others."""
    readers: dict[str, list[str]] = {}
    for node in nodes:
        for name in recurrent_weights(node):
            readers.setdefault(name, []).append(node.name)
    spec = Spec(Int(target.weight_bits), PER_ROW)
    return tuple(WeightStep(name, spec, tuple(dict.fromkeys(held))) for name, held in readers.items())


def _tables(network: Network, placement: Placement) -> tuple[WeightStep, ...]:
    """The tables that rows are picked from: 8 bits and a scale for each row, whatever the recipe has for weights."""
    readers: dict[str, list[str]] = {}
    for node in network.nodes:
        if placement.integer.get(node.name) is Role.TABLE:
            readers.setdefault(node.inputs[0], []).append(node.name)
    return tuple(WeightStep(name, Spec(Int(8), PER_ROW), tuple(held)) for name, held in readers.items())


def _spec(recipe: NetworkRecipe, bits: int, columns: int) -> Spec:
    """How a weight of this many columns is stored."""
    if recipe.number is Number.FLOAT8:
        return Spec(Float8(), PER_ROW if recipe.per_channel else PER_TENSOR)
    if recipe.activations is not Activations.FLOAT:
        bits = min(bits, find_target(recipe.target).weight_bits)
    form = Int(bits, signed=not recipe.has_zero)
    tile = PER_ROW if recipe.per_channel else PER_TENSOR
    if recipe.group is not None:
        tile = per_group(group_for(columns, recipe.group) or columns)
    return Spec(form, tile, zero=Spec(form) if recipe.has_zero else None)


def _narrowed(network: Network, placement: Placement, edges: set[str], recipe: NetworkRecipe) -> Placement:
    """What is multiplied gets the bits of activations, or of the edges; all else the wider of the two.

    What the first operator makes counts as its own, too, as in BRECQ's experiments: few channels that all else is made
    of.
    """
    groups = {point.value: point.group for point in placement.points}
    first = next(node for node in network.nodes if node.name in edges)
    widest = max(recipe.activation_bits, recipe.edge_bits)
    bits = {groups[name]: widest for name in _made_by(first, network, placement) if name in groups}
    for node in network.nodes:
        own = recipe.edge_bits if node.name in edges else recipe.activation_bits
        for group in {groups[name] for name in _factors(node, placement) if name in groups}:
            bits[group] = max(own, bits.get(group, 0))
    points = [replace(one, spec=_resized(one.spec, bits.get(one.group, widest))) for one in placement.points]
    return replace(placement, points=tuple(points))


def _made_by(node: Node, network: Network, placement: Placement) -> set[str]:
    """Its outputs, and what clamps and moves make of them."""
    made = set(node.outputs)
    for other in network.nodes:
        if placement.integer.get(other.name) in (Role.CLAMP, Role.MOVE) and other.inputs[0] in made:
            made.update(other.outputs)
    return made


def _factors(node: Node, placement: Placement) -> tuple[str, ...]:
    """The activations that an integer operator multiplies with weights or with each other."""
    role = placement.integer.get(node.name)
    return node.inputs[:1] if role is Role.LINEAR else node.inputs if role is Role.PRODUCT else ()


def _resized(spec: Spec, bits: int) -> Spec:
    """Integers of the same kind with so many bits."""
    assert isinstance(spec.format, Int)
    form = Int(bits, signed=spec.format.signed)
    return replace(spec, format=form, zero=None if spec.zero is None else Spec(form))


def divided_readers(network: Network, recipe: NetworkRecipe) -> dict[str, tuple[str, ...]]:
    """By value, the nodes that should read a copy of it: they multiply, and others read it who could have more bits."""
    if not recipe.has_two_widths:
        return {}
    placement = plan_network(network, recipe).placement
    points = {point.value: point for point in placement.points}
    widest = max(recipe.activation_bits, recipe.edge_bits)
    wide: set[str] = set()
    narrow: dict[str, list[str]] = {}
    for node, name in ((one, value) for one in network.nodes for value in one.inputs if value in points):
        if name in _factors(node, placement):
            narrow.setdefault(name, []).append(node.name)
        elif placement.integer.get(node.name) not in (None, Role.MOVE, Role.CLAMP):
            wide.add(points[name].group)
    return {
        name: tuple(nodes)
        for name, nodes in narrow.items()
        if points[name].group in wide and points[name].spec.format.bits < widest
    }


def int8(target: str = "x86-vnni") -> NetworkRecipe:
    """8-bit weights, one scale per output channel, and 8-bit activations."""
    return NetworkRecipe(target=target, relief=True)


def int8_per_tensor(target: str = "x86-vnni") -> NetworkRecipe:
    """8-bit weights with one scale for a whole weight, which takes channels that are balanced; 8-bit activations."""
    return NetworkRecipe(target=target, per_channel=False, equalize=True, absorb=True, relief=True)


def int8_smooth(target: str = "x86-vnni") -> NetworkRecipe:
    """As int8, with outlier channels of activations moved into the weights that read them."""
    return NetworkRecipe(target=target, smooth=(0.3, 0.5, 0.7), relief=True)


def w4a8(target: str = "x86-vnni") -> NetworkRecipe:
    """4-bit weights with learned rounding and 8-bit activations; the first and last linear operator in 8 bits."""
    return NetworkRecipe(
        weight_bits=4,
        target=target,
        solver=Feedback(fitter=AbsMse(), sweeps=4),
        learn=Brecq(point_rate=0.0),
        relief=True,
    )


def w4a4(target: str = "x86-vnni") -> NetworkRecipe:
    """4-bit weights and activations, both learned; the first and last linear operator in 8 bits."""
    return replace(w4a8(target), activation_bits=4, relief=False, learn=QDrop())


def int8_dynamic(target: str = "x86-vnni") -> NetworkRecipe:
    """8-bit weights of matrix products, and 8-bit activations whose ranges are found as the network runs."""
    return NetworkRecipe(target=target, activations=Activations.DYNAMIC, ranges=(MinMaxRange(),))


def w8a16(target: str = "x86-vnni") -> NetworkRecipe:
    """8-bit weights of matrix products, one scale per output channel; activations stay as they are."""
    solver = Feedback(fitter=AbsMax(), sweeps=2)
    return NetworkRecipe(target=target, activations=Activations.FLOAT, ranges=(MinMaxRange(),), solver=solver)


def w4a16(target: str = "x86-vnni") -> NetworkRecipe:
    """4-bit weights of matrix products in groups of 128, with zeros; activations stay as they are."""
    return replace(w8a16(target), weight_bits=4, group=128, has_zero=True, solver=Feedback(sweeps=2, refits=1))


def fp8_static(target: str = "x86-vnni") -> NetworkRecipe:
    """8-bit floats (E4M3) for weights, one scale per output channel, and for activations, one scale each."""
    return NetworkRecipe(target=target, number=Number.FLOAT8, ranges=(MinMaxRange(),))


NETWORK_PRESETS: Mapping[str, Callable[[str], NetworkRecipe]] = {
    function.__name__: function
    for function in (int8, int8_per_tensor, int8_smooth, int8_dynamic, w4a8, w4a4, w8a16, w4a16, fp8_static)
}


def find_network_recipe(name: str, target: str) -> NetworkRecipe:
    """The preset of this name for a target; ValueError lists those there are."""
    if name not in NETWORK_PRESETS:
        raise ValueError(f"{name!r} is no recipe for networks; choose one of {', '.join(NETWORK_PRESETS)}")
    return NETWORK_PRESETS[name](target)
