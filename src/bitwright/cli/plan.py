"""`bitwright plan`: what would be done, what it would cost, and what deserves a second look; no weight is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table

from bitwright.cli import job as options
from bitwright.cli.answer import answering, duration, out, say_json, size
from bitwright.numerics import Spec
from bitwright.recipe.cost import inputs
from bitwright.recipe.plan import Plan


@answering
def plan(
    model: options.ModelArgument,
    recipe: options.RecipeOption,
    calibration: options.CalibrationOption = None,
    samples: options.SamplesOption = 128,
    length: options.LengthOption = None,
    max_ram: options.MaxRamOption = None,
    threads: options.ThreadsOption = None,
    compute: options.ComputeOption = "auto",
    allow_pickle: options.PickleOption = False,
    json: options.JsonOption = False,
) -> None:
    """Show every decision with its bytes, and predict memory, disk and time, before any weight is touched."""
    given = options.Options(model, recipe, calibration, samples, length, max_ram, threads, compute, allow_pickle)
    job = options.prepare(given, needs_rows=False)
    if json:
        say_json(plan_json(job))
    else:
        show_plan(job)


def plan_json(job: options.Job) -> dict[str, Any]:
    """The plan as plain data."""
    weights = [
        {"name": name, "shape": list(shape), "spec": str(spec), "bits": spec.bits(shape)}
        for name, shape, spec in job.plan.specs()
    ]
    kept = [
        {"name": k.name, "kind": k.kind, "shape": list(k.shape), "bytes": k.bytes, "reason": k.reason}
        for k in job.plan.kept
    ]
    return {"weights": weights, "kept": kept, "warnings": list(warnings(job.plan)), "cost": asdict(job.cost)}


def show_plan(job: options.Job) -> None:
    """The plan as tables; what is alike in all blocks takes one line."""
    table = Table(title=f"{len(list(job.plan.specs()))} weights to quantize", title_justify="left", box=None)
    for heading, side in (
        ("weight", "left"),
        ("count", "right"),
        ("shape", "right"),
        ("stored as", "left"),
        ("bytes", "right"),
    ):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for name, count, shape, spec, stored in _folded(job.plan):
        table.add_row(name, str(count), f"{shape[0]} x {shape[1]}", spec, f"{stored:,}")
    out.print(table)
    kept = Table(title="kept as they are", title_justify="left", box=None)
    for heading in ("parameter", "count", "kind", "bytes", "reason"):
        kept.add_column(heading, justify="right" if heading in ("count", "bytes") else "left")
    for row in _folded_kept(job.plan):
        kept.add_row(*row)
    out.print(kept)
    cost = job.cost
    out.print(
        f"\nquantized weights {size(cost.weight_bytes)}, {cost.bits_per_weight:.3f} bits per weight; whole model "
        f"{size(cost.bytes)} (now {size(job.source.bytes)}), {cost.model_bits_per_weight:.3f} bits per weight"
    )
    out.print(
        f"predicted: peak memory {size(cost.peak_ram_bytes)}, disk {size(cost.disk_bytes)} of which "
        f"{size(cost.stream_bytes)} only while it runs, time about {duration(cost.seconds)}"
    )
    for text in warnings(job.plan):
        out.print(f"warning: {text}", style="yellow", markup=False)


def warnings(plan: Plan) -> Iterator[str]:
    """The plan's own warnings, and what fused kernels of serving engines will not like."""
    yield from plan.warnings
    for group in (group for block in plan.blocks for stage in block.stages for group in inputs(stage)):
        if len({step.spec for step in group}) > 1:
            names = ", ".join(step.name for step in group)
            yield f"{names} read one input but are stored differently: engines that fuse them will refuse"
    shapes = {(shape, spec) for _, shape, spec in plan.specs()}
    for shape, spec in sorted(shapes, key=str):
        yield from _kernel_limits(shape, spec)


def _kernel_limits(shape: tuple[int, int], spec: Spec) -> Iterator[str]:
    """Where vLLM's Marlin kernels (4 and 8 bits) do not reach: they want in % 128 == 0 and out % 64 == 0."""
    if spec.format.bits not in (4, 8) or spec.tile is None:
        return
    rows, cols = shape
    what = f"weights of {rows} x {cols}"
    if cols % 128 or rows % 64:
        yield f"{what}: vLLM's Marlin kernels want 128 to divide the inputs and 64 the outputs; a slower one will run"
    width = spec.tile.size(shape)[1]
    if width != cols and width not in (32, 64, 128):
        yield f"{what}: vLLM's Marlin kernels take groups of 32, 64, 128 or a whole row, not {width}"


def _folded(plan: Plan) -> list[tuple[str, int, tuple[int, int], str, int]]:
    """Weights with numbers in their names replaced by *, counted."""
    rows: dict[tuple[str, tuple[int, int], str], list[int]] = {}
    for name, shape, spec in plan.specs():
        rows.setdefault((_pattern(name), shape, str(spec)), []).append(spec.bits(shape) // 8)
    return [(name, len(sizes), shape, spec, sum(sizes)) for (name, shape, spec), sizes in rows.items()]


def _folded_kept(plan: Plan) -> list[tuple[str, str, str, str, str]]:
    rows: dict[tuple[str, str, str], list[int]] = {}
    for kept in plan.kept:
        rows.setdefault((_pattern(kept.name), kept.kind, kept.reason), []).append(kept.bytes)
    return [(n, str(len(sizes)), kind, f"{sum(sizes):,}", why) for (n, kind, why), sizes in rows.items()]


def _pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)
