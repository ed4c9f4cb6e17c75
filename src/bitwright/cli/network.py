"""`quantize` for whole networks: an ONNX file, a module that a function builds, or an encoder's folder, to ONNX.

What the model is decides which half of the tool takes it: causal language models go block by block, all others whole.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from bitwright.cli.answer import duration, err, say, say_json, show, size
from bitwright.cli.job import use_threads
from bitwright.engine.network import Step, quantize_network
from bitwright.evaluate.delivery import Delivery, Trial, verify
from bitwright.evaluate.latency import Timing
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.export.onnx_qdq import export_qdq
from bitwright.recipe.network import find_network_recipe
from bitwright.store.arrays import example_in
from bitwright.store.encoder_source import read_tokenizer
from bitwright.store.files import read_json, write_json
from bitwright.store.hooks import load_hook
from bitwright.store.loader import Loaded, run_loader
from bitwright.store.network_source import ModelKind, kind_of, open_network
from bitwright.store.onnx_source import OnnxSource, read_model
from bitwright.store.samples import Samples, read_samples

_VERIFIED = 16  # samples that the delivered file is compared on
_SOURCE = "source"  # the folder of a module's ONNX file, beside the artifact


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """The options of `quantize` that concern whole networks, as given."""

    model: str
    recipe: str
    calibration: Path | None
    loader: str | None
    samples: int
    length: int | None
    target: str
    output: Path
    threads: int | None
    verify: bool
    json: bool


def quantize_whole(options: NetworkOptions) -> None:
    """Quantize, export to OUT/export/onnx/model.onnx, and verify what was delivered."""
    use_threads(options.threads)
    recipe = find_network_recipe(options.recipe, options.target)
    source, samples = _open(options)
    for note in source.notes:
        err.print(f"note: {note}", soft_wrap=True)
    err.print(f"{samples.count} samples: {samples.preprocessing}", soft_wrap=True)
    started = time.monotonic()
    network = quantize_network(source, recipe, options.output, samples, _Progress())
    file = options.output / "export" / "onnx" / "model.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    export_qdq(network, file)
    seconds = time.monotonic() - started
    delivery = None
    if options.verify:
        err.print("verifying the delivered file")
        delivery = _verify(file, source.path, samples, options.threads or 1)
        write_json(options.output / "delivery.json", delivery.to_plain())
    data = _summary(options, source, file, seconds, delivery)
    if options.json:
        say_json(data)
    else:
        _show(data, delivery)


class _Progress:
    """Prints a line when a step begins and whenever another quarter of it is done, with the time it took so far."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._last = ("", 0)

    def __call__(self, step: Step) -> None:
        now = (step.what, 4 * step.done // max(1, step.total))
        if now != self._last:
            self._last = now
            err.print(f"{duration(time.monotonic() - self._started)}: {step.what} {step.done}/{step.total}")


def _open(options: NetworkOptions) -> tuple[OnnxSource, Samples]:
    """The source and its samples; a module needs an example of its inputs before it is a source."""
    if options.loader is None and options.calibration is None:
        raise ValueError("whole networks need samples: give --calibration FILE_OR_DIR or --loader pkg.mod:function")
    loaded: Loaded | None = None
    if options.loader is not None:
        loaded = run_loader(load_hook(options.loader), options.loader, options.samples)
    kind, folder, example = kind_of(options.model), options.output / _SOURCE, None
    if kind is ModelKind.MODULE:
        example = loaded.example if loaded is not None else _example(options.calibration)
    if kind is not ModelKind.ONNX:
        folder.mkdir(parents=True, exist_ok=True)
    source = open_network(options.model, folder, example)
    network = source.network()
    inputs = [network.values[name] for name in network.inputs]
    if loaded is not None:
        return source, loaded.samples(inputs, options.samples)
    assert options.calibration is not None
    tokenizer = read_tokenizer(Path(options.model)) if kind is ModelKind.ENCODER else None
    return source, read_samples(options.calibration, inputs, options.samples, tokenizer, options.length)


def _example(calibration: Path | None) -> Any:
    """The first samples of an array file, to trace a module with; None where there are none."""
    if calibration is not None and calibration.suffix.lower() in (".npz", ".npy"):
        return example_in(calibration)
    return None


def _verify(file: Path, original: Path, samples: Samples, threads: int) -> Delivery:
    """The delivered file in the engine, beside the simulation of what it says and beside the original."""
    feeds: list[Mapping[str, Tensor]] = []
    for batch in samples.batches(8):
        feeds.append(batch)
        if len(feeds) * len(next(iter(batch.values()))) >= _VERIFIED:
            break
    simulation = OnnxRunner(read_model(file), file.parent, exact=True)
    return verify(file, original, feeds, [simulation.run(one) for one in feeds], threads, Timing())


def _summary(
    options: NetworkOptions, source: OnnxSource, file: Path, seconds: float, delivery: Delivery | None
) -> dict[str, Any]:
    return {
        "artifact": str(options.output),
        "export": str(file),
        "bytes": sum(one.stat().st_size for one in file.parent.iterdir()),
        "bytes_original": sum(one.stat().st_size for one in source.path.parent.glob(source.path.name + "*")),
        "seconds": seconds,
        "manifest": read_json(options.output / "manifest.json"),
        "delivery": None if delivery is None else delivery.to_plain(),
    }


def _show(data: dict[str, Any], delivery: Delivery | None) -> None:
    table = Table(box=None, show_header=False)
    table.add_row("before", size(data["bytes_original"]))
    table.add_row("after", size(data["bytes"]))
    table.add_row("time", duration(data["seconds"]))
    show(table)
    if delivery is not None:
        for trial in delivery.trials:
            say(_words(trial))
        for text in (*delivery.problems, *delivery.warnings):
            say(f"warning: {text}", style="yellow")
    say(f"artifact: {data['artifact']}\nexport:   {data['export']}")


def _words(trial: Trial) -> str:
    """What one engine showed, in a line or two."""
    original = min((one.original_db for one in trial.outputs if one.original_db is not None), default=float("nan"))
    simulated = [one.simulation_db for one in trial.outputs if one.simulation_db is not None]
    counts = trial.counts()
    integer, floats = (sum(counts.get(kind, {}).values()) for kind in ("integer", "float"))
    names = ", ".join(sorted(counts.get("float", {}))) or "none"
    lines = [
        f"{trial.engine} {trial.version}: outputs {original:.1f} dB against the original"
        + (f", {min(simulated):.1f} dB against the simulation" if simulated else "")
        + f"; {integer} operators in integers, {floats} in float ({names})"
    ]
    lines += [
        f"  {one.speedup:.2f}x {one.against} at batch {one.batch} ({one.milliseconds:.3g} ms against "
        f"{one.milliseconds_against:.3g}; 95% interval {one.low:.2f} to {one.high:.2f})"
        for one in trial.latencies
    ]
    return "\n".join(lines)
