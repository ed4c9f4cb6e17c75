"""`evaluate` for whole networks: the user's metric of both networks, and how far the outputs are apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from bitwright.cli.answer import err, say, say_json, show, size
from bitwright.cli.network.deliver import exported_inside, file_bytes, stored_bytes, target_of
from bitwright.cli.network.given import Given, original_of
from bitwright.engine.simulate import Simulation
from bitwright.evaluate.foretold import Aim
from bitwright.evaluate.machine import this_machine
from bitwright.evaluate.metric import Measured, callable_model, measure_metric
from bitwright.evaluate.network_scores import NetworkScores, write_network_scores
from bitwright.evaluate.outputs import Runnable, SideBySide
from bitwright.execute.integers import IntegerRunner
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.export.exporter import ExportError
from bitwright.store.hooks import load_hook
from bitwright.store.network_artifact import open_network
from bitwright.store.onnx_source import read_model
from bitwright.store.quantized import QuantizedNetwork

_BATCH = 8


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
    delivered, size_of_it, is_simulated = _delivered(quantized, options)
    original: Runnable = OnnxRunner(source, threads=options.threads)
    pair = SideBySide(original, delivered)
    measured, compared_on = None, ""
    if options.given.has_samples:
        samples = options.given.samples(source)
        compared_on = f"{samples.count} samples, {samples.preprocessing}"
        err.print(compared_on, soft_wrap=True)
        pair.run_all(samples.batches(_BATCH))
    if metric is not None and options.metric is not None:
        err.print(f"{options.metric} of both networks", soft_wrap=True)
        run = callable_model(original if compared_on else pair)
        measured = measure_metric(metric, options.metric, run, callable_model(delivered))
        compared_on = compared_on or f"the {pair.batches} batches that {options.metric} ran"
    scores = NetworkScores(measured, pair.agreements(), compared_on, is_simulated, size_of_it, source.bytes)
    write_network_scores(options.artifact, scores)
    if options.json:
        say_json(scores.to_plain())
    else:
        show_network_scores(scores)


def _delivered(quantized: QuantizedNetwork, options: EvaluateOptions) -> tuple[Runnable, int, bool]:
    """What is delivered, to run; its size; and whether it is simulated, because its engine does not run here."""
    try:
        file = exported_inside(quantized, options.artifact)
    except ExportError as error:
        err.print(f"note: simulated, not run in an engine: {error}", soft_wrap=True)
        return Simulation(quantized, options.threads), stored_bytes(quantized, options.artifact), True
    target = target_of(options.artifact)
    if not Aim(target.name, target.engine, target.arithmetic).is_here(this_machine()):
        runner = IntegerRunner(file, target.arithmetic)
        if runner.in_integers:
            err.print(f"note: {target.engine} for {target.name} does not run here: simulated, integer-exact")
            return runner, file_bytes(file), True
    return OnnxRunner(read_model(file), file.parent, options.threads), file_bytes(file), False


def show_network_scores(scores: NetworkScores) -> None:
    """The figures with their intervals."""
    if scores.metric is not None:
        _show_metric(scores.metric)
    for one in scores.outputs:
        found = "not finite" if one.original_db is None else f"{one.original_db:.2f} dB"
        say(f"output {one.output}: {found} signal to noise against the original, on {scores.compared_on}")
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
