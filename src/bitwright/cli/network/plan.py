"""`plan` for whole networks: every operator's fate, bytes, memory and time, before anything is calibrated."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitwright.cli.answer import duration, say, say_json, size
from bitwright.cli.folding import Line, folded, show_rows
from bitwright.cli.job import measure_machine
from bitwright.cli.network.deliver import check_exports, find_form
from bitwright.cli.network.given import Asked, Given
from bitwright.engine.portions import measured_sizes
from bitwright.engine.prepare import without_trials
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.network import Network, Node, Opaque
from bitwright.numerics.machine import Machine, this_machine
from bitwright.recipe.forms import Activations
from bitwright.recipe.network import NetworkPlan, NetworkRecipe, plan_network
from bitwright.recipe.network_cost import Cost, Sizes, matrix_of, predict_network, products, sizes_of
from bitwright.recipe.network_text import check_keep
from bitwright.recipe.targets import suited


@dataclass(frozen=True, slots=True)
class Planned:
    """The network as it will be calibrated, what is to be done with it, and what that will cost."""

    network: Network
    recipe: NetworkRecipe
    plan: NetworkPlan
    sizes: Sizes
    cost: Cost
    notes: tuple[str, ...]


def plan_whole(given: Given, asked: Asked, to: str | None, json: bool) -> None:
    """Plan and show it. Samples are not needed; with them sizes are measured on one instead of read off shapes.

    `to`: a form that what comes of it shall be exported to; ExportError where that cannot be.
    """
    if to is not None:
        check_exports(asked.recipe(), find_form(to))
    with tempfile.TemporaryDirectory(prefix="bitwright-") as folder:
        planned = _planned(given, asked, Path(folder))
    if json:
        say_json(plan_json(planned))
    else:
        _show(planned)


def _planned(given: Given, asked: Asked, folder: Path) -> Planned:
    recipe = asked.recipe()
    source, samples = given.open_with_or_without(folder)
    check_keep(source.network(), recipe.keep)
    edited = without_trials(source, recipe, folder)
    network = edited.network()
    plan = plan_network(network, recipe)
    sizes = sizes_of(network, given.length) if samples is None else measured_sizes(OnnxRunner(edited), samples)
    count = samples.count if samples is not None else given.count or 128
    cost = predict_network(network, recipe, plan, sizes, count, measure_machine().flops)
    return Planned(network, recipe, plan, sizes, cost, source.notes)


def plan_json(planned: Planned) -> dict[str, Any]:
    """The plan as plain data."""
    plan, network = planned.plan, planned.network
    counts = products(network, planned.sizes)
    operators = [
        {
            "name": node.name,
            "op": node.op,
            "is_integer": node.name in plan.placement.integer,
            "role": plan.placement.integer[node.name].value if node.name in plan.placement.integer else None,
            "reason": plan.placement.floats.get(node.name),
            "products": counts.get(node.name, 0),
        }
        for node in network.nodes
    ]
    weights = [
        {
            "name": step.name,
            "nodes": list(step.nodes),
            "matrix": list(matrix_of(network, step)),
            "spec": str(step.spec),
            "bits": step.spec.bits(matrix_of(network, step)),
        }
        for step in plan.weights
    ]
    points = [{"value": one.value, "group": one.group, "spec": str(one.spec)} for one in plan.placement.points]
    cost = asdict(planned.cost) | {"integer_share": planned.cost.integer_share}
    return {
        "target": plan.target.name,
        "operators": operators,
        "weights": weights,
        "points": points,
        "notes": list(planned.notes),
        "warnings": list(warnings(planned, this_machine())),
        "cost": cost,
    }


def _show(planned: Planned) -> None:
    plan, cost = planned.plan, planned.cost
    for title, rows in folded(_weights(planned), pattern).items():
        show_rows(f"quantize: {title}", ("weight", "matrix"), rows)
    for title, rows in folded(_operators(planned), pattern).items():
        show_rows(title, ("operator", "kind"), rows)
    specs = ", ".join(dict.fromkeys(str(point.spec) for point in plan.placement.points))
    groups = len({point.group for point in plan.placement.points})
    say(
        f"\n{len(plan.placement.points)} values pass through codes ({specs}) on {groups} scales; "
        f"{cost.integer_share:.1%} of {cost.products:,} products of one sample run in integers on {plan.target.name}"
    )
    say(
        f"weights {size(cost.weight_bytes_before)} -> {size(cost.weight_bytes)}; all constants "
        f"{size(cost.bytes_before)} -> {size(cost.bytes)}"
    )
    say(f"predicted: peak memory {size(cost.peak_ram_bytes)}, time about {duration(cost.seconds)}")
    for text in planned.notes:
        say(f"note: {text}")
    for text in warnings(planned, this_machine()):
        say(f"warning: {text}", style="yellow")


def _weights(planned: Planned) -> Iterator[Line]:
    for step in planned.plan.weights:
        shape = matrix_of(planned.network, step)
        yield Line(str(step.spec), step.name, f"{shape[0]} x {shape[1]}", step.spec.bits(shape) // 8)


def _operators(planned: Planned) -> Iterator[Line]:
    """Those in integers by what they are, then those in float by why."""
    placement = planned.plan.placement
    nodes = sorted(planned.network.nodes, key=lambda node: node.name not in placement.integer)
    for node in nodes:
        role = placement.integer.get(node.name)
        title = f"float: {placement.floats.get(node.name, '')}" if role is None else f"integer: {role.value}"
        yield Line(title, node.name, node.op, 0)


def pattern(name: str) -> str:
    """The name with every number replaced by a star."""
    return re.sub(r"\d+(?:\.\d+)*", "*", name)


def warnings(planned: Planned, machine: Machine) -> Iterator[str]:
    """What deserves a second look."""
    plan, network, recipe = planned.plan, planned.network, planned.recipe
    counts = products(network, planned.sizes)
    total = sum(counts.values()) or 1
    floats = {name: count for name, count in counts.items() if name not in plan.placement.integer}
    for name, count in sorted(floats.items(), key=lambda item: -item[1])[:5]:
        yield f"{name} stays float ({plan.placement.floats[name]}) with {count / total:.1%} of all products"
    if len(floats) > 5:
        yield f"{len(floats) - 5} more linear operators stay float"
    for step in plan.weights:
        if len(step.nodes) > 1:
            yield f"{step.name} is read by {len(step.nodes)} operators ({', '.join(step.nodes[:3])}): one set of codes"
    if recipe.activation_bits != 8 and recipe.activations is Activations.STATIC:
        yield f"activations of {recipe.activation_bits} bits are simulated only: no engine runs them"
    if plan.target.weight_bits < recipe.weight_bits:
        yield f"weights use {plan.target.weight_bits} of 8 bits, because {plan.target.name} adds products in 16 bits"
    other = suited(plan.target.name, machine)
    if other != plan.target.name:
        yield f"this machine has no VNNI: its sums of products may overflow; --target {other} is for machines like it"
    if recipe.activations is Activations.DYNAMIC and not plan.target.runs_dynamic:
        yield (
            f"{plan.target.engine} multiplies dynamically quantized activations in float, slower than fp32: "
            "int8 is fast there, and w8a16 is as small as this"
        )
    if recipe.min_sqnr is not None:
        yield "min_sqnr: the time is that of one round; where the outputs are not good enough, up to 7 more follow"
    inner = [node.name for node in network.nodes if _has_subgraph(node)]
    if inner:
        yield f"what is inside {', '.join(inner[:3])} stays float ({len(inner)} operators with subgraphs)"
    unknown = [name for name, value in network.values.items() if value.shape is None and name not in planned.sizes]
    if unknown:
        yield f"{len(unknown)} values have shapes that are not known ({unknown[0]} ...): the prediction leaves them out"


def _has_subgraph(node: Node) -> bool:
    held = node.attributes.values()
    return bool(node.captures) or any(isinstance(one, Opaque) and one.kind.startswith("graph") for one in held)
