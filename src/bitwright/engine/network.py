"""The run for whole networks: edits, one calibration pass, ranges, then weights and biases in running order.

The float graph is edited first in ways that keep what it computes. Histograms of one pass over all samples give every
range. Then a smaller number of samples walks through the network node by node: each weight is rounded against the
inputs that it will really see, its bias takes back what rounding did to the mean. All is written to one folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, final

from torch import Tensor

from bitwright.calib import Choice
from bitwright.engine.judge import best_points, through
from bitwright.engine.layer import Rounded, halves, round_alone, round_layer
from bitwright.engine.observe import Observed, observe
from bitwright.engine.patches import has_patches, output_axis
from bitwright.execute.node_walk import NodeWalk
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.linear_node import linear_of
from bitwright.graph.network import Network, Node
from bitwright.numerics.plain import to_plain
from bitwright.recipe.network import NetworkPlan, NetworkRecipe, WeightStep, plan_network
from bitwright.store.network_artifact import MANIFEST, claim, is_made, open_network, write_network
from bitwright.store.onnx_rewrite import write_edited
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.quantized import QuantizedNetwork, StoredPoint, StoredWeight
from bitwright.store.sample_set import Samples
from bitwright.transforms import bias_edit, biased_value, fold_norms, means_as_pools
from bitwright.version import __version__

BATCH = 16
WALKED = 64  # samples that weights are rounded on; all of them make the ranges


@final
@dataclass(frozen=True, slots=True)
class Step:
    """Progress: what is being done, how much of it is done, and of how much."""

    what: str
    done: int
    total: int


def ignore(step: Step) -> None:
    """The callback that does nothing."""


def quantize_network(
    source: OnnxSource,
    recipe: NetworkRecipe,
    out: Path,
    samples: Samples,
    on_step: Callable[[Step], None] = ignore,
) -> QuantizedNetwork:
    """Quantize a network into the folder `out`; one that is finished there already is opened again.

    Raises ValueError on bad input, before anything is written if it can.

    Memory: the float network, one batch's values, and the live values of 64 samples at the widest place.
    """
    claim(out, source)
    made_of = _made_of(source, recipe, samples)
    if is_made(out, made_of):
        return open_network(out)
    (out / MANIFEST).unlink(missing_ok=True)
    edited = prepare(source, out)
    plan = plan_network(edited.network(), recipe)
    runner = OnnxRunner(edited)
    values = list(dict.fromkeys(v for held in plan.placement.sources(runner.network).values() for v in held))
    observed = observe(
        runner,
        values,
        samples.batches(BATCH),
        lambda count: on_step(Step("calibrate", count, samples.count)),
    )
    points, choices, tried = best_points(plan, runner, observed, recipe.ranges, samples.batches(BATCH))
    run = _Run(edited, plan, recipe, points)
    run.walk(samples, on_step)
    final_source = run.corrected(out)
    held = QuantizedNetwork(final_source, run.weights, points, frozenset(plan.placement.integer))
    write_network(held, made_of | _notes(observed, choices, run) | {"output_sqnr_by_rule": tried}, out)
    return open_network(out)


def prepare(source: OnnxSource, out: Path) -> OnnxSource:
    """The network after edits that keep what it computes, as OUT/float.onnx."""
    network = source.network()
    constants = source.read(sorted(_floats(network)))
    for plan in (lambda n, c: fold_norms(n, c).edit, means_as_pools):
        network, constants = plan(network, constants).apply(network, constants)
    return write_edited(source, network, constants, out / "float.onnx")


def _floats(network: Network) -> set[str]:
    """Constants that edits may read: all but text."""
    return {name for name in network.constants if network.values[name].dtype not in ("string", "unknown")}


class _Run:
    """The walk through the network, and what it has found so far."""

    def __init__(
        self, source: OnnxSource, plan: NetworkPlan, recipe: NetworkRecipe, points: Mapping[str, StoredPoint]
    ) -> None:
        self.source, self.plan, self.recipe, self.points = source, plan, recipe, points
        self.weights: dict[str, StoredWeight] = {}
        self.rounded: dict[str, Rounded] = {}
        self.offsets: dict[str, Tensor] = {}

    def walk(self, samples: Samples, on_step: Callable[[Step], None]) -> None:
        """Round every weight in running order."""
        network = self.source.network()
        count = -(-min(samples.count, WALKED) // BATCH)
        batches = list(islice(samples.batches(BATCH), max(2, count)))
        steps = {name: step for step in self.plan.weights for name in step.nodes}
        taken = {name: (through(point), point.readers) for name, point in self.points.items()}
        walk = NodeWalk(OnnxRunner(self.source), batches, taken)
        for node in network.nodes:
            constants: dict[str, Tensor] = {}
            if node.name in steps:
                step = steps[node.name]
                if step.name not in self.weights:
                    self._round(network, node, step, walk)
                    on_step(Step("round", len(self.weights), len(self.plan.weights)))
                constants[step.name] = self.weights[step.name].dequantize()
            walk.advance(node, constants, self._broadcast(network, node))

    def _round(self, network: Network, node: Node, step: WeightStep, walk: NodeWalk) -> None:
        weight = self.source.read([step.name])[step.name]
        linear = linear_of(network, node)
        assert linear is not None
        if has_patches(network, node):
            inputs = [feeds[node.inputs[0]] for feeds in walk.inputs(node)]
            found = round_layer(node, weight, step.spec, self.recipe.solver, halves(inputs))
        else:
            found = round_alone(node, weight, step.spec, self.recipe.solver)
        shape = tuple(weight.shape)
        self.weights[step.name] = StoredWeight(step.name, output_axis(node), shape, found.qtensor, step.nodes)
        self.rounded[step.name] = found
        has_place = node.op != "MatMul" or biased_value(network, linear) != linear.output
        if self.recipe.corrects_bias and found.offset is not None and len(step.nodes) == 1 and has_place:
            self.offsets[node.name] = found.offset

    def _broadcast(self, network: Network, node: Node) -> Tensor | None:
        """The offset of a node in the shape that adds to what it makes."""
        if node.name not in self.offsets:
            return None
        shape = network.values[node.outputs[0]].shape
        trailing = 0 if node.op in ("MatMul", "Gemm") or shape is None else len(shape) - 2
        return self.offsets[node.name].reshape(-1, *[1] * trailing)

    def corrected(self, out: Path) -> OnnxSource:
        """The float graph with the offsets in its biases, as OUT/float.onnx."""
        network = self.source.network()
        constants = self.source.read(sorted(_floats(network)))
        for name, offset in self.offsets.items():
            linear = linear_of(network, next(node for node in network.nodes if node.name == name))
            assert linear is not None
            network, constants = bias_edit(network, constants, linear, offset).apply(network, constants)
        return write_edited(self.source, network, constants, out / "float.onnx")


def _made_of(source: OnnxSource, recipe: NetworkRecipe, samples: Samples) -> dict[str, Any]:
    """What identifies a run: entries of the manifest."""
    return {
        "version": __version__,
        "recipe": to_plain(recipe),
        "source": {"digest": source.digest(), "notes": list(source.notes)},
        "samples": {"count": samples.count, "digest": samples.digest(), "preprocessing": samples.preprocessing},
    }


def _notes(observed: Observed, choices: Mapping[str, Choice], run: _Run) -> dict[str, Any]:
    """What the run found, for the manifest."""
    return {
        "findings": [finding.text for finding in observed.findings],
        "weights": {
            name: {
                "sqnr": Rounded.decibels(found.error),
                "sqnr_nearest": Rounded.decibels(found.nearest),
                "bias_corrected": any(node in run.offsets for node in run.weights[name].nodes),
                "notes": list(found.notes),
            }
            for name, found in run.rounded.items()
        },
        "points": {
            group: {"rule": to_plain(choice.taken.rule), "sqnr": choice.taken.sqnr} for group, choice in choices.items()
        },
        "roles": {name: role.value for name, role in run.plan.placement.integer.items()},
        "float": dict(run.plan.placement.floats),
    }


__all__ = ["NetworkRecipe", "QuantizedNetwork", "Step", "open_network", "quantize_network"]
