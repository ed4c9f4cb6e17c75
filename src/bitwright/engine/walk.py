"""The walk through a network: its weights in running order, each against the inputs that it will really see.

All samples stand at the same node. A weight is rounded on what reaches it after everything before it was rounded and
passed through codes; its bias takes back what rounding did to the mean. Then the node runs as it will be delivered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from bitwright.engine.judge import BATCH, through
from bitwright.engine.layer import NO_SAMPLES, Rounded, halves, round_alone, round_layer
from bitwright.engine.patches import has_patches, output_axis
from bitwright.engine.progress import OnStep, Step
from bitwright.execute.node_walk import NodeWalk
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.linear_node import linear_of
from bitwright.graph.network import Network, Node
from bitwright.recipe.network import NetworkPlan, NetworkRecipe, WeightStep
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.quantized import StoredPoint, StoredWeight
from bitwright.store.sample_set import Samples
from bitwright.transforms import biased_value

WALKED = 64  # samples that weights are rounded on; all of them make the ranges


@final
@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A prepared network, what is to be done with it, and the points of its activations."""

    source: OnnxSource
    recipe: NetworkRecipe
    plan: NetworkPlan
    points: Mapping[str, StoredPoint]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Walked:
    """Weights in codes and how well they came out, by constant; what is to be added to biases, by node."""

    weights: Mapping[str, StoredWeight]
    rounded: Mapping[str, Rounded]
    offsets: Mapping[str, Tensor]


def walk_weights(task: Task, samples: Samples, on_step: OnStep) -> Walked:
    """Round every weight of the plan in running order.

    Memory: the live values of 64 samples at the widest place of the network.
    """
    walk = _Walk(task)
    walk.run(samples, on_step)
    return Walked(walk.weights, walk.rounded, walk.offsets)


def round_weights(task: Task, on_step: OnStep) -> Walked:
    """Round every weight of the plan to nearest, where there are no samples to see what reaches it."""
    nodes = {node.name: node for node in task.source.network().nodes}
    weights: dict[str, StoredWeight] = {}
    rounded: dict[str, Rounded] = {}
    for step in task.plan.weights:
        weight, node = task.source.read([step.name])[step.name], nodes[step.nodes[0]]
        rounded[step.name] = found = round_alone(node, weight, step.spec, task.recipe.solver, NO_SAMPLES)
        weights[step.name] = StoredWeight(step.name, output_axis(node), tuple(weight.shape), found.qtensor, step.nodes)
        on_step(Step("round", len(weights), len(task.plan.weights)))
    return Walked(weights, rounded, {})


class _Walk:
    """What the walk has found so far."""

    def __init__(self, task: Task) -> None:
        self.task, self.network = task, task.source.network()
        self.weights: dict[str, StoredWeight] = {}
        self.rounded: dict[str, Rounded] = {}
        self.offsets: dict[str, Tensor] = {}

    def run(self, samples: Samples, on_step: OnStep) -> None:
        plan = self.task.plan
        batches = list(samples.dealt(WALKED, BATCH).batches(BATCH))
        steps = {name: step for step in plan.weights for name in step.nodes}
        taken = {name: (through(point), point.readers) for name, point in self.task.points.items()}
        walk = NodeWalk(OnnxRunner(self.task.source), batches, taken)
        for node in self.network.nodes:
            constants: dict[str, Tensor] = {}
            if node.name in steps:
                step = steps[node.name]
                if step.name not in self.weights:
                    self._round(node, step, walk)
                    on_step(Step("round", len(self.weights), len(plan.weights)))
                constants[step.name] = self.weights[step.name].dequantize()
            walk.advance(node, constants, self._broadcast(node))

    def _round(self, node: Node, step: WeightStep, walk: NodeWalk) -> None:
        weight = self.task.source.read([step.name])[step.name]
        recipe = self.task.recipe
        if has_patches(self.network, node):
            inputs = [feeds[node.inputs[0]] for feeds in walk.inputs(node)]
            found = round_layer(node, weight, step.spec, recipe.solver, halves(inputs))
        else:
            found = round_alone(node, weight, step.spec, recipe.solver)
        shape = tuple(weight.shape)
        self.weights[step.name] = StoredWeight(step.name, output_axis(node), shape, found.qtensor, step.nodes)
        self.rounded[step.name] = found
        is_alone = len(step.nodes) == 1 and _has_place(self.network, node)
        if recipe.corrects_bias and found.offset is not None and is_alone:
            self.offsets[node.name] = found.offset

    def _broadcast(self, node: Node) -> Tensor | None:
        """The offset of a node in the shape that adds to what it makes."""
        if node.name not in self.offsets:
            return None
        shape = self.network.values[node.outputs[0]].shape
        trailing = 0 if node.op in ("MatMul", "Gemm") or shape is None else len(shape) - 2
        return self.offsets[node.name].reshape(-1, *[1] * trailing)


def _has_place(network: Network, node: Node) -> bool:
    """Whether a bias can be added without another operator: a MatMul has none of its own."""
    linear = linear_of(network, node)
    assert linear is not None
    return node.op != "MatMul" or biased_value(network, linear) != linear.output
