"""`bitwright demo`: the main job on a small real model, from the plan to a page and a paragraph of text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from bitwright.cli import job as options
from bitwright.cli.answer import duration, err, resuming, say, show, size
from bitwright.cli.evaluate import show_scores
from bitwright.cli.export import export_inside
from bitwright.cli.quantize import note_run, run_job
from bitwright.evaluate import evaluate as score
from bitwright.evaluate import write_scores
from bitwright.report import write_report
from bitwright.runtime.load import continue_text
from bitwright.store.batches import read_text

PROMPT = "The old house stood at the end of the lane, and"
_TOKENS = 80


@resuming
def demo(
    model: Annotated[
        Path | None, typer.Option("--model", help="Another model with calibration.txt and heldout.txt.")
    ] = None,
    output: Annotated[Path, typer.Option("--out", "-o", help="Folder for all results.")] = Path("demo"),
    recipe: options.RecipeOption = "w4a16",
) -> None:
    """Quantize the example model to 4 bits, evaluate it, write the report, and let both models tell a story."""
    folder = model or _example()
    given = options.Options(folder, recipe, folder / "calibration.txt", 128, None, None, None, "auto", False)
    err.print(f"1/4 quantizing {folder} with {recipe}", soft_wrap=True)
    job = options.prepare(given, needs_rows=True)
    err.print(f"    predicted: {size(job.cost.peak_ram_bytes)} of memory, about {duration(job.cost.seconds)}")
    finished = run_job(job, output / "artifact")
    artifact = finished.artifact
    note_run(finished)
    err.print("2/4 evaluating on held-out text")
    scores = score(artifact, job.source, read_text(folder / "heldout.txt")[:100_000])
    write_scores(artifact, scores)
    err.print("3/4 writing the report")
    page = output / "report.html"
    write_report(artifact.path, page)
    err.print("4/4 generating with both models")
    show_scores(scores)
    texts = Table(box=None, padding=(1, 2, 0, 0))
    for name in ("original", recipe):
        texts.add_column(name, ratio=1)
    texts.add_row(*(continue_text(place, PROMPT, _TOKENS) for place in (folder, export_inside(artifact, "dense"))))
    show(texts)
    say(f"\nreport:   {page.resolve()}\nartifact: {artifact.path.resolve()}")


def _example() -> Path:
    """The example model of the repository, from its root or from where this package lies."""
    for root in (Path.cwd(), *Path(__file__).resolve().parents):
        found = root / "examples" / "bookllama"
        if (found / "config.json").is_file():
            return found
    raise ValueError("examples/bookllama was not found here; run it in the repository, or name a model with --model")
