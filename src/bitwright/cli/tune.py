"""`bitwright tune`: all codes and scales of an artifact moved together towards the original's predictions."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from bitwright.cli import job as options
from bitwright.cli.answer import duration, err, resuming, say, say_json, size
from bitwright.cli.evaluate import AgainstOption
from bitwright.cli.export import check_form, export_inside
from bitwright.cli.memory import PeakMemory, host
from bitwright.cli.quantize import OutOption
from bitwright.evaluate.compare import positions
from bitwright.store.artifact import Artifact, open_artifact
from bitwright.store.batches import read_batches
from bitwright.store.files import write_json
from bitwright.store.source import open_source
from bitwright.tune import Step, Tuning, needed_bytes
from bitwright.tune import tune as run

TextOption = Annotated[
    Path, typer.Option("--calibration", "-c", help="Text to learn from, a file or a folder.", show_default=False)
]


@resuming
def tune(
    artifact: Annotated[Path, typer.Argument(help="The folder that quantize wrote.", show_default=False)],
    against: AgainstOption,
    calibration: TextOption,
    output: OutOption,
    samples: options.SamplesOption = 128,
    length: options.LengthOption = None,
    epochs: Annotated[int, typer.Option("--epochs", help="How often it goes over the text.", min=1)] = Tuning().epochs,
    max_ram: options.MaxRamOption = None,
    threads: options.ThreadsOption = None,
    to: options.ToOption = None,
    allow_pickle: options.PickleOption = False,
    json: options.JsonOption = False,
) -> None:
    """Tune a quantized language model end to end: fewer bits lose less, at as many bytes.

    Needs the whole model in memory, in float32, and a gradient for every weight; the same command again resumes. The
    outcome is a new artifact, with the codes of the old one where held-out rows show no gain.
    """
    options.use_threads(threads)
    found, source = open_artifact(artifact), open_source(against, allow_pickle)
    if to is not None:
        check_form(to, source, found.entries)
    rows = read_batches(calibration, source.tokenizer(), positions(source.skeleton()), samples, length)
    tuning = Tuning(epochs=epochs)
    need = needed_bytes(found, source, rows, tuning)
    _check_memory(need, max_ram)
    err.print(f"predicted: {size(need)} of memory")
    started = time.monotonic()
    with PeakMemory() as peak:
        tuned = run(found, source, rows, output, tuning, _note(started))
    spent = {"seconds": time.monotonic() - started, "peak_bytes": peak.bytes, "blocks": [], "host": host()}
    if not (output / "run.json").is_file():
        write_json(output / "run.json", spent)
    exported = None if to is None else export_inside(tuned, to)
    data = summary(tuned, exported) | {"seconds": spent["seconds"], "peak_ram_bytes": peak.bytes}
    if json:
        say_json(data | {"peak_ram_bytes_predicted": need})
    else:
        _show(data, against)


def _check_memory(need: int, max_ram: str | None) -> None:
    """ValueError where there is less than is needed."""
    limit = None if max_ram is None else options.parse_bytes(max_ram)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    least = there if limit is None else min(limit, there)
    if need > least:
        raise ValueError(
            f"tuning this model is predicted to need {size(need)} of memory, and there are {size(least)}: every weight "
            "is held with its gradient. Use a machine with more, or leave this artifact untuned; it is whole as it is"
        )


def _note(started: float) -> Any:
    """What is said after a step: at about every tenth of the way."""
    known: list[tuple[int, float]] = []

    def note(step: Step) -> None:
        known.append((step.done, time.monotonic()))
        if step.done % max(1, step.steps // 10) == 0 or step.done == step.steps:
            first, began = (known[0][0] - 1, started) if len(known) == 1 else known[0]
            each = (known[-1][1] - began) / (step.done - first)
            left = f", about {duration(each * (step.steps - step.done))} left" if step.done < step.steps else ""
            err.print(f"step {step.done}/{step.steps}: divergence {step.divergence:.4g}{left}", soft_wrap=True)

    return note


def summary(tuned: Artifact, exported: Path | None) -> dict[str, Any]:
    """What came out, as plain data."""
    notes = tuned.manifest["tuned"]
    moved = sum(weight.get("codes_moved", 0) for weight in tuned.manifest["weights"])
    elements = sum(weight["shape"][0] * weight["shape"][1] for weight in tuned.manifest["weights"])
    return {
        "artifact": str(tuned.path),
        "export": None if exported is None else str(exported),
        "bytes": tuned.bytes,
        "kept": notes["kept"],
        "kl_before": notes["kl_before"],
        "kl_after": notes["kl_after"],
        "codes_moved": moved / elements,
    }


def _show(data: dict[str, Any], against: Path) -> None:
    before, after = data["kl_before"], data["kl_after"]
    say(f"divergence on held-out rows: {before:.4g} -> {after:.4g} ({after / max(before, 1e-30) - 1:+.1%})")
    if data["kept"]:
        say(f"{data['codes_moved']:.2%} of all codes are others; the size is the same")
    else:
        say("no gain, so codes and scales are those of the artifact as it was")
    say(f"time:     {duration(data['seconds'])}, at most {size(data['peak_ram_bytes'])} of memory")
    say(f"artifact: {data['artifact']}" + (f"\nexport:   {data['export']}" if data["export"] else ""))
    say(f"next:     bitwright evaluate {data['artifact']} --against {against} --text FILE")
