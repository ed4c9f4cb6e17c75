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
from bitwright.recipe.targets import Role

WALKED = 64  # samples, as engine.walk
JUDGED = 32  # samples, as engine.judge
BATCH = 16  # samples, as engine.judge
LENGTH = 128  # assumed of an axis whose size nothing says, such as the tokens of a text

_BASE = 420 << 20  # Python with torch, ONNX and ONNX Runtime
_COPIES = 3  # of the float weights: the file, a session, and one in the making
_BATCH_COPIES, _WALK_COPIES = 1.5, 1.7
_ELEMENT_SECONDS = 1.5e-8  # counting one number into a histogram
_RULE_SECONDS = 4e-9  # passing one number through codes and an operator
_NODE_SECONDS = 4e-3  # opening one operator alone

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
    integer = sum(n for name, n in counts.items() if plan.placement.integer.get(name) in (Role.LINEAR, Role.PRODUCT))
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
    linear = linear_of(network, node)
    assert linear is not None
    count = _numel(network, step.name)
    return linear.outputs, count // linear.outputs


def products(network: Network, sizes: Sizes) -> dict[str, int]:
    """By linear operator or product of activations, how many multiplications one sample takes."""
    found = {}
    for node in network.nodes:
        linear = linear_of(network, node)
        if linear is not None:
            is_spread = node.op == "ConvTranspose"
            side, channels = (node.inputs[0], linear.inputs) if is_spread else (linear.output, linear.outputs)
            found[node.name] = sizes.get(side, 0) * _numel(network, linear.weight) // channels
        elif node.op == "MatMul":
            shape = network.values[node.inputs[0]].shape
            inner = LENGTH if not shape or shape[-1] is None else shape[-1]
            found[node.name] = sizes.get(node.outputs[0], 0) * inner
    return found


def _peak(network: Network, plan: NetworkPlan, sizes: Sizes, samples: int, weights: int) -> int:
    """Calibration holds a batch of all observed values, the walk all samples at the widest place.

    What the first frees the allocator keeps, so they add up; the copies are those that three trained networks showed.
    """
    observed = sum(sizes.get(value, 0) for value in {point.value for point in plan.placement.points})
    calibrate = 4 * min(samples, BATCH) * observed
    walk = 4 * min(samples, WALKED) * (_widest(network, sizes) + max(sizes.values(), default=0))
    return _BASE + _COPIES * weights + int(_BATCH_COPIES * calibrate + _WALK_COPIES * walk)


def _widest(network: Network, sizes: Sizes) -> int:
    """The most numbers of one sample that are needed at the same time."""
    last = {name: place for place, node in enumerate(network.nodes) for name in (*node.inputs, *node.captures)}
    last |= {name: len(network.nodes) for name in network.outputs}
    live = sum(sizes.get(name, 0) for name in network.inputs)
    most = live
    for place, node in enumerate(network.nodes):
        live += sum(sizes.get(name, 0) for name in node.outputs if name in last)
        most = max(most, live)
        gone = {*node.inputs, *node.captures}
        live -= sum(sizes.get(name, 0) for name in gone if last.get(name) == place)
    return most


def _seconds(
    network: Network, recipe: NetworkRecipe, plan: NetworkPlan, sizes: Sizes, machine: tuple[int, float]
) -> float:
    samples, flops = machine
    walked, judged = min(samples, WALKED), min(samples // 8 or samples, JUDGED)
    tried = judged * len(recipe.ranges) if len(recipe.ranges) > 1 else 0
    runs = samples + judged + tried + walked
    spent = 2 * sum(products(network, sizes).values()) * runs / flops
    observed = sum(sizes.get(value, 0) for value in {point.value for point in plan.placement.points})
    spent += _ELEMENT_SECONDS * observed * samples
    spent += _RULE_SECONDS * sum(sizes.values()) * (tried + walked)
    spent += _NODE_SECONDS * len(network.nodes) * (1 + len(recipe.ranges))
    return spent + sum(_solve_seconds(network, step, sizes, machine) for step in plan.weights)


def _solve_seconds(network: Network, step: WeightStep, sizes: Sizes, machine: tuple[int, float]) -> float:
    """Second moments of what a weight reads, and some passes of products and factors over its columns."""
    samples, flops = machine
    outputs, inputs = matrix_of(network, step)
    node: Node = next(node for node in network.nodes if node.name == step.nodes[0])
    columns = min(samples, WALKED) * max(1, sizes.get(node.outputs[0], 0) // outputs)
    return (2 * columns * inputs**2 + 12 * outputs * inputs**2 + 8 * inputs**3) / flops + 1e-4 * inputs


def _numel(network: Network, name: str) -> int:
    return math.prod(size or 1 for size in network.values[name].shape or ())


def _bytes(network: Network, name: str) -> int:
    width = re.search(r"(\d+)$", network.values[name].dtype)
    return _numel(network, name) * (int(width[1]) // 8 if width else 1)
