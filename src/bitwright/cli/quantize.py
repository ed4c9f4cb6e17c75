"""`bitwright quantize`: carries the plan out; run again after a stop, it goes on where it was."""

from __future__ import annotations

import platform
import resource
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bitwright.cli import job as options
from bitwright.cli.answer import answering, duration, err, out, say_json, size
from bitwright.engine.run import BlockDone
from bitwright.export import EXPORTERS, export
from bitwright.quantize import Resources
from bitwright.quantize import quantize as run
from bitwright.store.artifact import Artifact
from bitwright.store.files import write_json

OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the result.", show_default=False)]
ToOption = Annotated[
    str | None,
    typer.Option("--to", help=f"Also export into OUT/export/FORMAT: {', '.join(EXPORTERS)}.", show_default=False),
]


@answering
def quantize(
    model: options.ModelArgument,
    recipe: options.RecipeOption,
    output: OutOption,
    calibration: options.CalibrationOption = None,
    samples: options.SamplesOption = 128,
    length: options.LengthOption = None,
    max_ram: options.MaxRamOption = None,
    threads: options.ThreadsOption = None,
    compute: options.ComputeOption = "auto",
    to: ToOption = None,
    allow_pickle: options.PickleOption = False,
    json: options.JsonOption = False,
) -> None:
    """Quantize a model block by block. The same command again resumes."""
    if to is not None and to not in EXPORTERS:
        raise ValueError(f"--to is one of {', '.join(EXPORTERS)}; found {to!r}")
    given = options.Options(model, recipe, calibration, samples, length, max_ram, threads, compute, allow_pickle)
    job = options.prepare(given, needs_rows=True)
    started = time.monotonic()
    artifact, blocks = run_job(job, output)
    seconds = time.monotonic() - started
    _note_run(artifact, blocks, seconds)
    exported = None
    if to is not None:
        exported = output / "export" / to
        export(artifact, EXPORTERS[to](), exported)
    if json:
        say_json(summary(job, artifact, blocks, exported))
    else:
        _show(job, artifact, blocks, exported)


def run_job(job: options.Job, output: Path) -> tuple[Artifact, list[BlockDone]]:
    """Run a prepared job with progress on stderr."""
    blocks: list[BlockDone] = []
    columns = (
        TextColumn("block {task.completed}/{task.total}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task("quantize", total=len(job.plan.blocks), state="")

        def note(done: BlockDone) -> None:
            blocks.append(done)
            error = done.report["error"]
            state = f"{size(resident())} in memory" + (f", held-out error {error:.3g}" if error is not None else "")
            progress.update(task, completed=len(blocks), state=state)
            if not err.is_terminal:
                how = "found on disk" if done.seconds == 0 else duration(done.seconds)
                err.print(f"block {done.index + 1}/{done.count}: {how}, {state}")

        artifact = run(job.source, job.plan.recipe, output, job.batches, Resources(job.compute), note)
    return artifact, blocks


def resident() -> int:
    """Anonymous memory of this process in bytes (peak resident memory where the system does not tell)."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _note_run(artifact: Artifact, blocks: list[BlockDone], seconds: float) -> None:
    """Times and host: what the manifest must not hold."""
    note: dict[str, Any] = {
        "seconds": seconds,
        "blocks": [{"seconds": done.seconds} for done in blocks],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "host": platform.node(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_json(artifact.path / "run.json", note)


def summary(job: options.Job, artifact: Artifact, blocks: list[BlockDone], exported: Path | None) -> dict[str, Any]:
    """What came out, as plain data."""
    return {
        "artifact": str(artifact.path),
        "export": None if exported is None else str(exported),
        "bytes": artifact.bytes,
        "bytes_original": job.source.bytes,
        "bits_per_weight": job.cost.bits_per_weight,
        "blocks": len(blocks),
        "blocks_resumed": sum(done.seconds == 0 for done in blocks),
        "notes": [f"{w['name']}: {note}" for w in artifact.manifest["weights"] for note in w["notes"]],
        "warnings": list(job.plan.warnings),
    }


def _show(job: options.Job, artifact: Artifact, blocks: list[BlockDone], exported: Path | None) -> None:
    data = summary(job, artifact, blocks, exported)
    share = data["bytes"] / data["bytes_original"]
    out.print(
        f"{size(data['bytes_original'])} -> {size(data['bytes'])} ({share:.1%}), "
        f"{data['bits_per_weight']:.3f} bits per quantized weight"
    )
    if data["blocks_resumed"]:
        out.print(f"{data['blocks_resumed']} of {data['blocks']} blocks were found on disk")
    if data["notes"]:
        out.print(f"{len(data['notes'])} fallbacks, each named in the report")
    out.print(f"artifact: {artifact.path}" + (f"\nexport:   {exported}" if exported else ""))
    out.print(f"next:     bitwright evaluate {artifact.path} --against {job.source.path} --text FILE")
    out.print(f"          bitwright report {artifact.path} -o page.html")
