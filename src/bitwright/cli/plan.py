"""`bitwright plan`: what would be done, what it would cost, and what deserves a second look; no weight is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from bitwright.cli import job as options
from bitwright.cli.answer import answering, duration, say, say_json, show, size
from bitwright.numerics import Spec
from bitwright.recipe.plan import BlockJob, Plan


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
        {"name": name, "shape": list(shape), "spec": str(spec), "bits": spec.bits(shape), "solver": solver}
        for name, shape, spec, solver in _decisions(job.plan)
    ]
    kept = [
        {"name": k.name, "kind": k.kind, "shape": list(k.shape), "bytes": k.bytes, "reason": k.reason}
        for k in job.plan.kept
    ]
    return {"weights": weights, "kept": kept, "warnings": list(warnings(job.plan)), "cost": asdict(job.cost)}


def show_plan(job: options.Job) -> None:
    """The plan as tables; what is alike in all blocks takes one line."""
    for title, rows in _folded(_decided(job.plan)).items():
        _show_rows(f"quantize: {title}", rows)
    for title, rows in _folded(_kept(job.plan)).items():
        _show_rows(f"keep: {title}", rows)
    cost = job.cost
    say(
        f"\nquantized weights {size(cost.weight_bytes)}, {cost.bits_per_weight:.3f} bits per weight; whole model "
        f"{size(cost.bytes)} (now {size(job.source.bytes)}), {cost.model_bits_per_weight:.3f} bits per weight"
    )
    say(
        f"predicted: peak memory {size(cost.peak_ram_bytes)}, disk {size(cost.disk_bytes)} of which "
        f"{size(cost.stream_bytes)} only while it runs, time about {duration(cost.seconds)}"
    )
    for text in warnings(job.plan):
        say(f"warning: {text}", style="yellow")


def _show_rows(title: str, rows: Mapping[tuple[str, str], list[int]]) -> None:
    say(title, style="bold")
    table = Table(box=None, header_style="dim")
    for heading, side in (("weight", "left"), ("count", "right"), ("shape", "right"), ("bytes", "right")):
        table.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
    for (name, shape), sizes in rows.items():
        table.add_row(name, str(len(sizes)), shape, f"{sum(sizes):,}")
    show(table)


def warnings(plan: Plan) -> Iterator[str]:
    """The plan's own warnings, and what fused kernels of serving engines will not like; each once."""
    yield from plan.warnings
    yield from dict.fromkeys(text for job in plan.blocks for text in _fused(job))
    shapes = {(shape, spec) for _, shape, spec in plan.specs()}
    for shape, spec in sorted(shapes, key=str):
        yield from _kernel_limits(shape, spec)


def _fused(job: BlockJob) -> Iterator[str]:
    """Linears that read one input and are not stored alike, kept ones included; names without the block's number."""
    specs = {step.name: step.spec for step in job.steps}
    groups: dict[int, list[str]] = {}
    for linear in job.block.linears:
        if not linear.selects:
            groups.setdefault(linear.source, []).append(linear.view.name)
    for names in groups.values():
        if len({specs.get(name) for name in names}) > 1:
            listed = ", ".join(dict.fromkeys(map(_pattern, names)))
            yield f"{listed} read one input but are not stored alike: engines that fuse them will refuse the model"


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


def _decisions(plan: Plan) -> Iterator[tuple[str, tuple[int, int], Spec, str]]:
    """Name, shape, storage and solver of every weight that will be quantized."""
    solvers = {step.name: type(step.solver).__name__ for job in plan.blocks for step in job.steps}
    for name, shape, spec in plan.specs():
        yield name, shape, spec, solvers.get(name, "Nearest")  # tables are rounded without data


def _decided(plan: Plan) -> Iterator[_Line]:
    for name, shape, spec, solver in _decisions(plan):
        yield _Line(f"{spec}; {solver}", name, shape, spec.bits(shape) // 8)


def _kept(plan: Plan) -> Iterator[_Line]:
    for kept in plan.kept:
        yield _Line(f"{kept.kind}: {kept.reason}", kept.name, kept.shape, kept.bytes)


@dataclass(frozen=True, slots=True)
class _Line:
    """One weight under its title."""

    title: str
    name: str
    shape: tuple[int, ...]
    bytes: int


def _folded(lines: Iterator[_Line]) -> dict[str, dict[tuple[str, str], list[int]]]:
    """Title -> name with numbers replaced by *, and shape -> the bytes of each weight that has these."""
    found: dict[str, dict[tuple[str, str], list[int]]] = {}
    for line in lines:
        row = _pattern(line.name), " x ".join(map(str, line.shape))
        found.setdefault(line.title, {}).setdefault(row, []).append(line.bytes)
    return found


def _pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)
