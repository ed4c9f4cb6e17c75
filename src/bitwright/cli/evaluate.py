"""`bitwright evaluate`: the artifact against the original on held-out text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from bitwright.cli import job as options
from bitwright.cli.answer import answering, err, say, say_json, show, size
from bitwright.evaluate import Progress, Scores, write_scores
from bitwright.evaluate import evaluate as score
from bitwright.store.artifact import open_artifact
from bitwright.store.batches import read_text
from bitwright.store.source import open_source


@answering
def evaluate(
    artifact: Annotated[Path, typer.Argument(help="The folder that quantize wrote.", show_default=False)],
    against: Annotated[Path, typer.Option("--against", "-a", help="The original model's folder.", show_default=False)],
    text: Annotated[Path, typer.Option("--text", "-t", help="Held-out text: a file or a folder.", show_default=False)],
    length: options.LengthOption = None,
    threads: options.ThreadsOption = None,
    allow_pickle: options.PickleOption = False,
    json: options.JsonOption = False,
) -> None:
    """Perplexity, KL divergence and top-1 agreement with 95 % intervals; writes scores.json into the artifact."""
    options.use_threads(threads)
    found = open_artifact(artifact)
    scores = score(found, open_source(against, allow_pickle), read_text(text), length, on_progress=_note)
    write_scores(found, scores)
    if json:
        say_json(scores.to_plain())
    else:
        show_scores(scores)


def _note(progress: Progress) -> None:
    if progress.done == progress.total or progress.done % max(1, progress.total // 4) == 0:
        err.print(f"{progress.stage} {progress.done}/{progress.total}", style="dim")


def show_scores(scores: Scores) -> None:
    """The figures with their intervals."""
    data: dict[str, Any] = scores.to_plain()
    table = Table(box=None)
    for heading in ("", "value", "95 % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    for key in ("perplexity_original", "perplexity", "kl_mean", "kl_p999", "top1_agreement"):
        interval = data["intervals"].get(key)
        span = "" if interval is None else f"{interval[0]:.5g} to {interval[1]:.5g}"
        table.add_row(key.replace("_", " "), f"{data[key]:.5g}", span)
    show(table)
    bits = data["bits_per_weight"]
    say(
        f"{size(data['bytes_original'])} -> {size(data['bytes'])}"
        + ("" if bits is None else f", {bits:.3f} bits per quantized weight")
        + f"; {data['tokens']:,} tokens"
    )
