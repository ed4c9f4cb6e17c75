"""`bitwright plan`: what would be done, what it would cost, and what deserves a second look; no weight is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from bitwright.cli import job as options
from bitwright.cli.answer import answering, duration, say, say_json, size
from bitwright.cli.export import check_form, planned
from bitwright.cli.folding import Line, folded, show_rows
from bitwright.cli.which import is_network, refuse
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
    target: options.TargetOption = None,
    keep: options.KeepOption = None,
    loader: options.LoaderOption = None,
    to: options.ToOption = None,
    min_sqnr: options.MinSqnrOption = None,
    metric: options.MetricOption = None,
    max_drop: options.MaxDropOption = None,
    json: options.JsonOption = False,
) -> None:
    """Show every decision with its bytes, and predict memory, disk and time, before any weight is touched."""
    if is_network(model, recipe):
        refuse("language models", max_ram=max_ram, allow_pickle=allow_pickle, compute=compute != "auto")
        from bitwright.cli.network.given import Asked, Given  # needs the onnx extra
        from bitwright.cli.network.plan import plan_whole
        from bitwright.cli.network.quantize import Drop

        options.use_threads(threads)
        asked = Asked(recipe, target, tuple(keep or ()), min_sqnr)
        Drop.asked(metric, max_drop)
        plan_whole(Given(str(model), calibration, loader, samples, length), asked, to, json)
        return
    refuse("whole networks", target=target, loader=loader, min_sqnr=min_sqnr, metric=metric, max_drop=max_drop)
    given = options.Options(
        model, recipe, calibration, samples, length, max_ram, threads, compute, allow_pickle, tuple(keep or ())
    )
    job = options.prepare(given, needs_rows=False)
    if to is not None:
        check_form(to, job.source, planned(job.plan))
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
    for title, rows in folded(_decided(job.plan), _pattern).items():
        show_rows(f"quantize: {title}", ("weight", "shape"), rows)
    for title, rows in folded(_kept(job.plan), _pattern).items():
        show_rows(f"keep: {title}", ("weight", "shape"), rows)
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


def _decided(plan: Plan) -> Iterator[Line]:
    for name, shape, spec, solver in _decisions(plan):
        yield Line(f"{spec}; {solver}", name, _shape(shape), spec.bits(shape) // 8)


def _kept(plan: Plan) -> Iterator[Line]:
    for kept in plan.kept:
        yield Line(f"{kept.kind}: {kept.reason}", kept.name, _shape(kept.shape), kept.bytes)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)
