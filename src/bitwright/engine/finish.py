"""The end of a run: offsets go into the biases of the float graph, and what was found is written to the folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bitwright.calib import Choice, outside
from bitwright.engine.judge import Ranges
from bitwright.engine.layer import Rounded
from bitwright.engine.observe import Observed
from bitwright.engine.prepare import FLOAT
from bitwright.engine.walk import Task, Walked
from bitwright.graph.linear_node import linear_of
from bitwright.numerics.plain import to_plain
from bitwright.store.network_artifact import write_network
from bitwright.store.onnx_rewrite import write_edited
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.quantized import QuantizedNetwork
from bitwright.transforms import bias_edit


def finish(task: Task, walked: Walked, notes: Mapping[str, Any], out: Path) -> None:
    """Write the artifact. `notes`: what the manifest says beside what is stored."""
    source = _corrected(task.source, walked, out)
    integer = frozenset(task.plan.placement.integer)
    held = QuantizedNetwork(source, walked.weights, task.points, integer, task.plan.target.engine)
    write_network(held, notes, out)


def found_notes(task: Task, walked: Walked, observed: Observed, ranges: Ranges) -> dict[str, Any]:
    """What the run found, for the manifest."""
    sources = task.plan.placement.sources(task.source.network())
    return {
        "findings": [finding.text for finding in observed.findings],
        "weights": {
            name: {
                "sqnr": Rounded.decibels(found.error),
                "sqnr_nearest": Rounded.decibels(found.nearest),
                "bias_corrected": any(node in walked.offsets for node in walked.weights[name].nodes),
                "notes": list(found.notes),
            }
            for name, found in walked.rounded.items()
        },
        "points": {
            group: {
                "rule": to_plain(choice.taken.rule),
                "sqnr": None if math.isnan(choice.taken.sqnr) else choice.taken.sqnr,
                "clipped": _clipped(observed, sources[group], choice),
            }
            for group, choice in ranges.choices.items()
        },
        "range_rules": [{"rule": to_plain(rule), "output_noise": noise} for rule, noise in ranges.tried],
        "roles": {name: role.value for name, role in task.plan.placement.integer.items()},
        "float": dict(task.plan.placement.floats),
    }


def _clipped(observed: Observed, values: Sequence[str], choice: Choice) -> float | None:
    """The part of the values that lies outside the range; None where only their extremes are known."""
    held = [observed.histograms[name] for name in values if name in observed.histograms]
    count = sum(one.count for one in held)
    return sum(outside(one, choice.taken.low, choice.taken.high) * one.count for one in held) / count if count else None


def _corrected(source: OnnxSource, walked: Walked, out: Path) -> OnnxSource:
    """The float graph with the offsets in its biases, as OUT/float.onnx."""
    network, changed = source.network(), dict[str, Tensor]()
    for name, offset in walked.offsets.items():
        linear = linear_of(network, next(node for node in network.nodes if node.name == name))
        assert linear is not None
        around = (linear.node, *[node for node, _ in network.readers(linear.output)])
        stored = {name for node in around for name in node.inputs} & source.network().constants
        before = source.read(sorted(stored - changed.keys())) | changed
        network, after = bias_edit(network, before, linear, offset).apply(network, before)
        changed = {name: held for name, held in after.items() if name in changed or held is not before.get(name)}
    return write_edited(source, network, changed, out / FLOAT)
