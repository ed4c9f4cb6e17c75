"""The walk through a network: its weights in running order, each against the inputs that it will really see.

All samples stand at the same node. A weight is rounded on what reaches it after everything before it was rounded and
passed through codes; its bias takes back what rounding did to the mean. Then the node runs as it will be delivered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from bitwright.engine.checkpoint_forms import rounded_form
from bitwright.engine.judge import BATCH, through
from bitwright.engine.layer import NO_SAMPLES, Rounded, halves, round_alone, round_layer
from bitwright.engine.patches import has_patches, output_axis
from bitwright.engine.progress import OnStep, Step
from bitwright.execute.node_walk import Change, NodeWalk
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.linear_node import linear_of
from bitwright.graph.network import Network, Node
from bitwright.recipe.network import NetworkPlan, NetworkRecipe, WeightStep
from bitwright.store.checkpoints import Checkpoints
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


def walk_weights(task: Task, samples: Samples, checkpoints: Checkpoints, on_step: OnStep) -> Walked:
    """Round every weight of the plan in running order.

    Memory: the live values of 64 samples at the widest place of the network.
    """
    walk = _Walk(task, checkpoints)
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

    def __init__(self, task: Task, checkpoints: Checkpoints) -> None:
        self.task, self.network, self.checkpoints = task, task.source.network(), checkpoints
        self.weights: dict[str, StoredWeight] = {}
        self.rounded: dict[str, Rounded] = {}
        self.offsets: dict[str, Tensor] = {}

    def run(self, samples: Samples, on_step: OnStep) -> None:
        plan = self.task.plan
        batches = list(samples.dealt(WALKED, BATCH).batches(BATCH))
        steps: dict[str, list[WeightStep]] = {}
        for step in plan.weights:
            for name in step.nodes:
                steps.setdefault(name, []).append(step)
        taken = {name: (through(point), point.readers) for name, point in self.task.points.items()}
        walk = NodeWalk(OnnxRunner(self.task.source), batches, taken)
        waiting: list[Node] = []  # of a wide network, to be run on one batch after the other
        for node in self.network.nodes:
            if node.name not in steps and samples.most is not None:
                waiting.append(node)
                continue
            walk.advance_apart(waiting, {})
            waiting.clear()
            for step in steps.get(node.name, ()):
                if step.name not in self.weights:
                    self._round(node, step, walk)
                    on_step(Step("round", len(self.weights), len(plan.weights)))
            held = [self.weights[step.name] for step in steps.get(node.name, ())]
            walk.advance(node, change_of(self.network, node, held, self.offsets.get(node.name)))

    def _round(self, node: Node, step: WeightStep, walk: NodeWalk) -> None:
        weight = self.task.source.read([step.name])[step.name]
        recipe, shape = self.task.recipe, tuple(weight.shape)

        def solve() -> Rounded:
            if not has_patches(self.network, node):
                return round_alone(node, weight, step.spec, recipe.solver)
            inputs = [feeds[node.inputs[0]] for feeds in walk.inputs(node)]
            return round_layer(node, weight, step.spec, recipe.solver, halves(inputs))

        found = self.checkpoints.once(step.name, solve, rounded_form(step.spec))
        self.weights[step.name] = StoredWeight(step.name, output_axis(node), shape, found.qtensor, step.nodes)
        self.rounded[step.name] = found
        if recipe.corrects_bias and found.offset is not None and takes_offset(self.network, node, step.nodes):
            self.offsets[node.name] = found.offset


def change_of(network: Network, node: Node, weights: Sequence[StoredWeight], offset: Tensor | None) -> Change:
    """What a node runs with once its weights are rounded."""
    shaped = None if offset is None else shaped_offset(network, node, offset)
    return Change({weight.name: weight.dequantize() for weight in weights}, shaped)


def changes_of(network: Network, walked: Walked) -> dict[str, Change]:
    """What every node runs with that has a weight in codes, by its name."""
    found = {}
    for node in network.nodes:
        known = [walked.weights[name] for name in node.inputs if name in walked.weights]
        held = [weight for weight in known if node.name in weight.nodes]
        if held:
            found[node.name] = change_of(network, node, held, walked.offsets.get(node.name))
    return found


def shaped_offset(network: Network, node: Node, offset: Tensor) -> Tensor:
    """The offset of a node in the shape that adds to what it makes."""
    kernel = network.values[node.inputs[1]].shape  # that of the output may be unknown
    trailing = 0 if node.op in ("MatMul", "Gemm") or kernel is None else len(kernel) - 2
    return offset.reshape(-1, *[1] * trailing)


def takes_offset(network: Network, node: Node, sharing: tuple[str, ...]) -> bool:
    """Whether something can be added to the bias of a node; `sharing`: the nodes that multiply with its weight.

    Not where it shares the weight, nor where that would take another operator: a MatMul has no bias of its own.
    """
    linear = linear_of(network, node)
    assert linear is not None
    return len(sharing) == 1 and (node.op != "MatMul" or biased_value(network, linear) != linear.output)
