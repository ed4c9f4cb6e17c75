"""What a plan for a whole network will cost: bytes, products in integers, memory and time.

Bytes follow from shapes. Memory and time follow the phases of a run, from how many numbers each value has for one
sample, which shapes say, or a sample that was run. They are estimates, right within a factor of two or so; the speed of
this machine is measured by the caller.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from bitwright.graph.linear_node import linear_of
from bitwright.graph.network import Network, Node
from bitwright.numerics import Tile
from bitwright.recipe.network import NetworkPlan, NetworkRecipe, WeightStep
from bitwright.recipe.roles import recurrent_weights
from bitwright.recipe.targets import Role
from bitwright.solvers import BlockSolver

WALKED = 64  # samples, as engine.walk
JUDGED = 32  # samples, as engine.judge
BATCH = 16  # samples, as engine.judge
WIDE = 1 << 27  # numbers that a batch may have at the same time, unless one sample has more: 512 MiB
LENGTH = 128  # assumed of an axis whose size nothing says, such as the tokens of a text

MULTIPLY = (Role.LINEAR, Role.PRODUCT, Role.RECURRENT)
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})

_BASE = 420 << 20  # Python with torch, ONNX and ONNX Runtime
_COPIES = 2  # of the float weights: two sessions, or a session and the numbers that gradients go through
_MATRIX_BYTES, _WEIGHT_BYTES = 16, 12  # of an input x input matrix and of a weight that are solved for, with copies
_BATCH_COPIES, _WALK_COPIES = 1.5, 1.7
_ELEMENT_SECONDS = 1.5e-8  # counting one number into a histogram
_RULE_SECONDS = 4e-9  # passing one number through codes and an operator
_NODE_SECONDS = 4e-3  # opening one operator alone
_LEARN_SECONDS = 1.5e-8  # passing one number forth and back through an operator and its codes
_TRIAL_RULES = 2  # as engine.trial

Sizes = Mapping[str, int]  # value -> numbers for one sample


@final
@dataclass(frozen=True, slots=True)
class Cost:
    """`weight_bytes`: of what becomes codes, with scales; `weight_bytes_before`: of the same in float.

    `bytes`, `bytes_before`: of all constants, about what the files have. `products`: of one sample, in linear operators
    and products of activations; `integer_products`: those of operators in integers. `peak_ram_bytes`, `seconds`:
    predictions.
    """

    bytes: int
    bytes_before: int
    weight_bytes: int
    weight_bytes_before: int
    products: int
    integer_products: int
    peak_ram_bytes: int
    seconds: float

    @property
    def integer_share(self) -> float:
        """Integer products over all products."""
        return self.integer_products / self.products if self.products else 0.0


def sizes_of(network: Network, length: int | None = None) -> Sizes:
    """How many numbers each value has for one sample, as far as shapes say; axes of any size count as `length`."""
    found = {}
    for name, value in network.values.items():
        if name in network.constants or value.shape is None:
            continue
        first, *others = value.shape or (1,)
        sizes = [1 if first is None else first, *(length or LENGTH if size is None else size for size in others)]
        found[name] = math.prod(sizes)
    return found


def predict_network(
    network: Network, recipe: NetworkRecipe, plan: NetworkPlan, sizes: Sizes, samples: int, flops: float
) -> Cost:
    """The cost of a run over `samples` samples on a machine of so many float operations a second."""
    before, after = weight_bytes(network, plan)
    total = sum(_bytes(network, name) for name in network.constants)
    counts = products(network, sizes)
    integer = sum(n for name, n in counts.items() if plan.placement.integer.get(name) in MULTIPLY)
    return Cost(
        bytes=total - before + after,
        bytes_before=total,
        weight_bytes=after,
        weight_bytes_before=before,
        products=sum(counts.values()),
        integer_products=integer,
        peak_ram_bytes=_peak(network, plan, sizes, samples, total),
        seconds=_seconds(network, recipe, plan, sizes, (samples, flops)),
    )


def weight_bytes(network: Network, plan: NetworkPlan) -> tuple[int, int]:
    """Bytes of what becomes codes, in float and delivered.

    Beside activations in codes that is a byte a code, a scale and a zero for each tile; weights alone are packed.
    """
    before = after = 0
    for step in plan.weights:
        shape = matrix_of(network, step)
        before += _bytes(network, step.name)
        if not plan.placement.points:
            after += -(-step.spec.bits(shape) // 8)
            continue
        after += math.prod(shape) + 5 * math.prod((Tile() if step.spec.tile is None else step.spec.tile).count(shape))
    return before, after


def matrix_of(network: Network, step: WeightStep) -> tuple[int, int]:
    """The weight as a matrix of one row for each output channel."""
    node = next(node for node in network.nodes if node.name == step.nodes[0])
    count = _numel(network, step.name)
    linear = linear_of(network, node)
    if linear is None:  # of a recurrent operator or a table: its last axis is what each row reads, or is
        inputs = (network.values[step.name].shape or (1,))[-1] or 1
        return count // inputs, inputs
    return linear.outputs, count // linear.outputs


def products(network: Network, sizes: Sizes) -> dict[str, int]:
    """By linear or recurrent operator or product of activations, how many multiplications one sample takes."""
    found = {}
    for node in network.nodes:
        linear = linear_of(network, node)
        if linear is not None:
            is_spread = node.op == "ConvTranspose"
            side, channels = (node.inputs[0], linear.inputs) if is_spread else (linear.output, linear.outputs)
            found[node.name] = sizes.get(side, 0) * _numel(network, linear.weight) // channels
        elif node.op in RECURRENT:
            reads = (network.values[node.inputs[1]].shape or (1,))[-1] or 1
            once = sum(_numel(network, name) for name in recurrent_weights(node))
            found[node.name] = sizes.get(node.inputs[0], 0) // reads * once
        elif node.op == "MatMul":
            shape = network.values[node.inputs[0]].shape
            inner = LENGTH if not shape or shape[-1] is None else shape[-1]
            found[node.name] = sizes.get(node.outputs[0], 0) * inner
    return found


def batch_of(network: Network, sizes: Sizes) -> int:
    """How many samples at most leave room for what is needed of them at the widest place."""
    return max(1, min(BATCH, WIDE // max(1, *_alive(network, sizes))))


def _peak(network: Network, plan: NetworkPlan, sizes: Sizes, samples: int, weights: int) -> int:
    """Calibration holds a batch of all observed values, the walk all samples at the widest place.

    Of a wide network, which has smaller batches, the walk holds all samples where there are weights to round, and one
    batch in between; gradients hold all values of one sample, which may be more than a batch that is observed. What
    the first frees the allocator keeps, so they add up, and so does what the largest weight's solver holds.
    """
    observed = sum(sizes.get(value, 0) for value in {point.value for point in plan.placement.points})
    batch, alive = batch_of(network, sizes), _alive(network, sizes)
    calibrate = 4 * min(samples, batch) * observed
    widest, largest, walked = max(alive, default=0), max(sizes.values(), default=0), min(samples, WALKED)
    walk = 4 * walked * (widest + largest)
    if batch < BATCH:
        rounded = {name for step in plan.weights for name in step.nodes}
        places = [held for held, node in zip(alive, network.nodes, strict=True) if node.name in rounded]
        walk = 4 * (walked * max(places, default=0) + min(samples, batch) * (widest + largest))
        calibrate = max(calibrate, 4 * sum(sizes.values())) if observed else 0
    shapes = [matrix_of(network, step) for step in plan.weights]
    solve = max((_MATRIX_BYTES * held**2 + _WEIGHT_BYTES * out * held for out, held in shapes), default=0)
    return _BASE + _COPIES * weights + solve + int(_BATCH_COPIES * calibrate + _WALK_COPIES * walk)


def _alive(network: Network, sizes: Sizes) -> list[int]:
    """How many numbers of one sample are needed while each node runs."""
    last = {name: place for place, node in enumerate(network.nodes) for name in (*node.inputs, *node.captures)}
    last |= {name: len(network.nodes) for name in network.outputs}
    live = sum(sizes.get(name, 0) for name in network.inputs)
    found = []
    for place, node in enumerate(network.nodes):
        live += sum(sizes.get(name, 0) for name in node.outputs if name in last)
        found.append(live)
        gone = {*node.inputs, *node.captures}
        live -= sum(sizes.get(name, 0) for name in gone if last.get(name) == place)
    return found


def _seconds(
    network: Network, recipe: NetworkRecipe, plan: NetworkPlan, sizes: Sizes, machine: tuple[int, float]
) -> float:
    samples, flops = machine
    walked, judged = min(samples, WALKED), min(samples, JUDGED)
    counts, points = products(network, sizes), {point.value for point in plan.placement.points}
    trials = _trials(recipe)
    simulated = _TRIAL_RULES * trials + (len(recipe.ranges) if len(recipe.ranges) > 1 else 0)
    if recipe.relief and points:
        simulated += 1 + 2 * math.ceil(math.log2(len(points) + 1))  # the whole, and halves down to one value
    counted = samples + trials * walked
    spent = 2 * sum(counts.values()) * (counted + judged + judged * simulated + walked) / flops
    spent += _ELEMENT_SECONDS * sum(sizes.get(value, 0) for value in points) * counted
    spent += _RULE_SECONDS * sum(sizes.values()) * (judged * simulated + walked)
    spent += _NODE_SECONDS * len(network.nodes) * (1 + simulated)
    spent += sum(_solve_seconds(network, step, sizes, machine) for step in plan.weights)
    return spent if recipe.learn is None else spent + _learn_seconds(network, recipe.learn, sizes, counts, flops)


def _trials(recipe: NetworkRecipe) -> int:
    """How often a draft is quantized to see what it comes to: as it is, then after every edit that is proposed."""
    edits = 2 * recipe.equalize + recipe.absorb + len(recipe.smooth) + recipe.level
    return edits + 1 if edits else 0


def _learn_seconds(
    network: Network, solver: BlockSolver, sizes: Sizes, counts: Mapping[str, int], flops: float
) -> float:
    """Every operator forth and back for the samples that all steps draw; back takes twice as long."""
    spent = 0.0
    for node in network.nodes:
        numbers = sum(sizes.get(name, 0) for name in node.outputs)
        once = 6 * counts.get(node.name, 0) / flops + _LEARN_SECONDS * numbers
        spent += once * solver.drawn(numbers)
    return spent


def _solve_seconds(network: Network, step: WeightStep, sizes: Sizes, machine: tuple[int, float]) -> float:
    """Second moments of what a weight reads, and some passes of products and factors over its columns."""
    samples, flops = machine
    outputs, inputs = matrix_of(network, step)
    node: Node = next(node for node in network.nodes if node.name == step.nodes[0])
    if node.op == "Gather":
        return 0.0
    columns = min(samples, WALKED) * max(1, sizes.get(node.outputs[0], 0) // outputs)
    return (2 * columns * inputs**2 + 12 * outputs * inputs**2 + 8 * inputs**3) / flops + 1e-4 * inputs


def _numel(network: Network, name: str) -> int:
    return math.prod(size or 1 for size in network.values[name].shape or ())


def _bytes(network: Network, name: str) -> int:
    width = re.search(r"(\d+)$", network.values[name].dtype)
    return _numel(network, name) * (int(width[1]) // 8 if width else 1)
