"""`evaluate` for whole networks: the user's metric of both networks, and how far the outputs are apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from bitwright import networks
from bitwright.cli.answer import err, say, say_json, show, size
from bitwright.cli.network.given import Given, original_of
from bitwright.evaluate.metric import Measured
from bitwright.evaluate.network_scores import NetworkScores
from bitwright.store.hooks import load_hook
from bitwright.store.network_artifact import open_network


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """The options of `evaluate` that concern whole networks, as given."""

    artifact: Path
    given: Given
    metric: str | None
    threads: int
    json: bool


def evaluate_whole(options: EvaluateOptions) -> None:
    """Score both networks; writes scores.json into the artifact."""
    if options.metric is None and not options.given.has_samples:
        raise ValueError(
            "nothing to evaluate with: give your own measure with --metric pkg.mod:function, or samples on which the "
            "outputs are compared with --data FILE_OR_DIR or --loader pkg.mod:function"
        )
    quantized = open_network(options.artifact)
    metric = None if options.metric is None else load_hook(options.metric)
    source = original_of(options.artifact, options.given.model)
    samples = options.given.samples(source) if options.given.has_samples else None
    if samples is not None:
        err.print(f"{samples.count} samples, {samples.preprocessing}", soft_wrap=True)
    if metric is not None:
        err.print(f"{options.metric} of both networks", soft_wrap=True)
    scores = networks.evaluate(quantized, source, metric, samples, options.metric or "", options.threads)
    if scores.is_simulated:
        err.print("note: simulated, not run in an engine: none runs such codes here", soft_wrap=True)
    if options.json:
        say_json(scores.to_plain())
    else:
        show_network_scores(scores)


def show_network_scores(scores: NetworkScores) -> None:
    """The figures with their intervals."""
    if scores.metric is not None:
        _show_metric(scores.metric)
    for one in scores.outputs:
        found = "not finite" if one.original_db is None else f"{one.original_db:.2f} dB"
        sizes = f"; of another size for {one.reshaped} batches, which are all error" if one.reshaped else ""
        say(f"output {one.output}: {found} signal to noise against the original, on {scores.compared_on}{sizes}")
    say(f"{size(scores.bytes_original)} -> {size(scores.bytes)}" + (" (simulated)" if scores.is_simulated else ""))


def _show_metric(metric: Measured) -> None:
    table = Table(box=None)
    for heading in (metric.name, "original", "delivered", "change", "95 % interval"):
        table.add_column(heading, justify="left" if heading == metric.name else "right")
    span = "" if metric.interval is None else f"{metric.interval[0]:.4g} to {metric.interval[1]:.4g}"
    count = f"mean of {metric.samples} scores" if metric.samples else "one number"
    better = "higher is better" if metric.higher_is_better else "lower is better"
    row = (f"{metric.original:.6g}", f"{metric.delivered:.6g}", f"{metric.change:+.4g}", span)
    table.add_row(f"{count}, {better}", *row)
    show(table)
