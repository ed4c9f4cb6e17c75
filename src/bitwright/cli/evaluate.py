"""`bitwright evaluate`: the artifact against the original, on held-out text or by the user's own measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from bitwright.cli import job as options
from bitwright.cli.answer import answering, err, say, say_json, show, size
from bitwright.cli.which import is_network_artifact, refuse
from bitwright.evaluate import Progress, Scores, write_scores
from bitwright.evaluate import evaluate as score
from bitwright.store.artifact import open_artifact
from bitwright.store.batches import read_text
from bitwright.store.source import open_source

AgainstOption = Annotated[
    Path, typer.Option("--against", "-a", help="The original model, as it was given to quantize.", show_default=False)
]
TextOption = Annotated[
    Path | None,
    typer.Option("--text", "-t", help="Language models: held-out text, a file or a folder.", show_default=False),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", "-d", help="Whole networks: samples to compare outputs on.", show_default=False),
]
CountOption = Annotated[
    int | None, typer.Option("--samples", help="Whole networks: how many samples [default: all].", min=1)
]


@answering
def evaluate(
    artifact: Annotated[Path, typer.Argument(help="The folder that quantize wrote.", show_default=False)],
    against: AgainstOption,
    text: TextOption = None,
    metric: options.MetricOption = None,
    data: DataOption = None,
    loader: options.LoaderOption = None,
    samples: CountOption = None,
    length: options.LengthOption = None,
    threads: options.ThreadsOption = None,
    allow_pickle: options.PickleOption = False,
    json: options.JsonOption = False,
) -> None:
    """Score the artifact beside the original, with 95 % intervals; writes scores.json into the artifact.

    Of a language model: perplexity, KL divergence and top-1 agreement on --text. Of any other network: your --metric,
    and signal over noise of the outputs on --data or --loader, or else on what the metric ran.
    """
    options.use_threads(threads)
    if is_network_artifact(artifact):
        refuse("language models", text=text, allow_pickle=allow_pickle)
        from bitwright.cli.network.evaluate import EvaluateOptions, evaluate_whole  # needs the onnx extra
        from bitwright.cli.network.given import Given

        given = Given(str(against), data, loader, samples, length)
        evaluate_whole(EvaluateOptions(artifact, given, metric, threads or 1, json))
        return
    found = open_artifact(artifact)
    refuse("whole networks", metric=metric, data=data, loader=loader, samples=samples)
    if text is None:
        raise ValueError("a language model is scored on held-out text: give it with --text FILE_OR_DIR")
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
