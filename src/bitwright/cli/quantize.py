"""`bitwright quantize`: carries the plan out; run again after a stop, it goes on where it was."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from bitwright.cli import job as options
from bitwright.cli.answer import duration, err, resuming, say, say_json, show, size
from bitwright.cli.export import check_form, export_inside, planned
from bitwright.cli.memory import PeakMemory, host, resident
from bitwright.cli.which import is_network, refuse
from bitwright.engine.run import BlockDone
from bitwright.export import EXPORTERS
from bitwright.quantize import Resources
from bitwright.quantize import quantize as run
from bitwright.store.artifact import Artifact
from bitwright.store.files import read_json, write_json

OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the result.", show_default=False)]


@dataclass(frozen=True, slots=True)
class Finished:
    """An artifact, and what making it took."""

    artifact: Artifact
    blocks: tuple[BlockDone, ...]
    seconds: float
    peak_bytes: int

    @property
    def resumed(self) -> int:
        """How many blocks were found on disk."""
        return sum(done.seconds == 0 for done in self.blocks)


@resuming
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
    to: options.ToOption = None,
    allow_pickle: options.PickleOption = False,
    target: options.TargetOption = None,
    keep: options.KeepOption = None,
    loader: options.LoaderOption = None,
    min_sqnr: options.MinSqnrOption = None,
    metric: options.MetricOption = None,
    max_drop: options.MaxDropOption = None,
    no_verify: options.NoVerifyOption = False,
    json: options.JsonOption = False,
) -> None:
    """Quantize a language model block by block (the same command again resumes), any other network as a whole."""
    if is_network(model, recipe):
        refuse("language models", max_ram=max_ram, allow_pickle=allow_pickle, compute=compute != "auto")
        from bitwright.cli.network.given import Asked, Given  # needs the onnx extra
        from bitwright.cli.network.quantize import Drop, NetworkOptions, quantize_whole

        network = Given(str(model), calibration, loader, samples, length)
        asked = Asked(recipe, target, tuple(keep or ()), min_sqnr)
        drop = Drop.asked(metric, max_drop)
        quantize_whole(NetworkOptions(network, asked, output, threads, to, drop, not no_verify, json))
        return
    refuse("whole networks", loader=loader, target=target, min_sqnr=min_sqnr, metric=metric, max_drop=max_drop)
    refuse("whole networks", no_verify=no_verify)
    if to is not None:
        check_form(to)
    given = options.Options(
        model, recipe, calibration, samples, length, max_ram, threads, compute, allow_pickle, tuple(keep or ())
    )
    job = options.prepare(given, needs_rows=True)
    if to is not None:
        check_form(to, job.source, planned(job.plan))
    err.print(f"predicted: {size(job.cost.peak_ram_bytes)} of memory, about {duration(job.cost.seconds)}")
    finished = run_job(job, output)
    note_run(finished)
    exported = None if to is None else export_inside(finished.artifact, to)
    if json:
        say_json(summary(job, finished, exported))
    else:
        _show(job, finished, exported)


def run_job(job: options.Job, output: Path) -> Finished:
    """Run a prepared job with progress on stderr: a bar on a terminal, else a line for every block."""
    started = time.monotonic()
    blocks: list[BlockDone] = []
    columns = (
        TextColumn("block {task.completed}/{task.total}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        _Memory(),
        TextColumn("{task.fields[state]}"),
    )
    with PeakMemory() as peak, Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task("quantize", total=len(job.plan.blocks), state="")

        def note(done: BlockDone) -> None:
            blocks.append(done)
            progress.update(task, completed=len(blocks), state=_error(done))
            if not err.is_terminal:
                err.print(_line(blocks), soft_wrap=True)

        artifact = run(job.source, job.plan.recipe, output, job.batches, Resources(job.compute), note)
    return Finished(artifact, tuple(blocks), time.monotonic() - started, peak.bytes)


class _Memory(ProgressColumn):
    """Memory in use, whenever the bar is drawn."""

    def render(self, task: Task) -> Text:
        return Text(size(resident()))


def _error(done: BlockDone) -> str:
    error = done.report["error"]
    return "" if error is None else f"held-out error {error:.3g}"


def _line(blocks: list[BlockDone]) -> str:
    """What there is to say after the last of these blocks."""
    done = blocks[-1]
    worked = [block.seconds for block in blocks if block.seconds]
    left = (done.count - len(blocks)) * sum(worked) / len(worked) if worked else 0.0
    words = [duration(done.seconds) if done.seconds else "found on disk", f"{size(resident())} in memory", _error(done)]
    words.append(f"about {duration(left)} left" if left else "")
    return f"block {done.index + 1}/{done.count}: " + ", ".join(word for word in words if word)


def note_run(finished: Finished) -> None:
    """Write run.json: times and host, which the manifest must not hold. Blocks found on disk keep their old times."""
    file = finished.artifact.path / "run.json"
    known, peak = _noted(file, len(finished.blocks))
    seconds = [done.seconds or old for done, old in zip(finished.blocks, known, strict=True)]
    note: dict[str, Any] = {
        "seconds": finished.seconds if finished.resumed == 0 else sum(seconds),
        "blocks": [{"seconds": spent} for spent in seconds],
        "peak_bytes": max(finished.peak_bytes, peak) if finished.resumed else finished.peak_bytes,
        "host": host(),
    }
    write_json(file, note)


def _noted(file: Path, count: int) -> tuple[list[float], int]:
    """What an earlier run noted: the seconds of each block, and its peak; zeros where there is no such note."""
    try:
        note = read_json(file)
        seconds, peak = [float(block["seconds"]) for block in note["blocks"]], int(note["peak_bytes"])
    except (OSError, ValueError, LookupError, TypeError):
        return [0.0] * count, 0
    return (seconds, peak) if len(seconds) == count else ([0.0] * count, 0)


def summary(job: options.Job, finished: Finished, exported: Path | None) -> dict[str, Any]:
    """What came out, as plain data."""
    artifact = finished.artifact
    return {
        "artifact": str(artifact.path),
        "export": None if exported is None else str(exported),
        "bytes": artifact.bytes,
        "bytes_original": job.source.bytes,
        "bits_per_weight": job.cost.bits_per_weight,
        "blocks": len(finished.blocks),
        "blocks_resumed": finished.resumed,
        "errors": [done.report["error"] for done in finished.blocks],
        "seconds": finished.seconds,
        "peak_ram_bytes": finished.peak_bytes,
        "peak_ram_bytes_predicted": job.cost.peak_ram_bytes,
        "notes": [f"{w['name']}: {note}" for w in artifact.manifest["weights"] for note in w["notes"]],
        "warnings": list(job.plan.warnings),
    }


def _show(job: options.Job, finished: Finished, exported: Path | None) -> None:
    data = summary(job, finished, exported)
    table = Table(box=None, show_header=False)
    rows = {
        "before": size(data["bytes_original"]),
        "after": f"{size(data['bytes'])} ({data['bytes'] / data['bytes_original']:.1%}), all files that a reader needs",
        "bits": f"{data['bits_per_weight']:.3f} per quantized weight, scales and zeros included",
        "blocks": f"{data['blocks_resumed']} of {data['blocks']} blocks were found on disk",
        "time": f"{duration(finished.seconds)}, at most {size(finished.peak_bytes)} of memory",
        "notes": f"{len(data['notes'])} (fallbacks and the like; the report names each)",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    show(table)
    path = finished.artifact.path
    say(f"artifact: {path}" + (f"\nexport:   {exported}" if exported else ""))
    say(f"next:     bitwright evaluate {path} --against {job.source.path} --text FILE")
    say(f"          bitwright report {path} -o page.html")
    if exported is None:
        say(f"          bitwright export {path} --to {' | '.join(EXPORTERS)} -o DIR")
