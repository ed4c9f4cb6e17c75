"""`quantize` for whole networks: an ONNX file, a module that a function builds, or a Hugging Face folder, to ONNX."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from bitwright.cli.answer import duration, err, say, say_json, show, show_warning, size
from bitwright.cli.job import use_threads
from bitwright.cli.memory import PeakMemory, host
from bitwright.cli.network.deliver import check_exports, find_form, note_delivery, show_delivery, verify_file
from bitwright.cli.network.given import Asked, Given
from bitwright.engine.network import Step, quantize_network
from bitwright.evaluate.metric import LargestDrop, callable_model
from bitwright.export.delivered import exported_inside, file_bytes, stored_bytes
from bitwright.export.exporter import ExportError
from bitwright.export.onnx_forms import OnnxForm
from bitwright.networks import VERIFIED
from bitwright.recipe.network_text import check_keep
from bitwright.store.files import read_json, write_json
from bitwright.store.hooks import load_hook
from bitwright.store.network_artifact import EXPORTED
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.random_samples import random_samples

SILENCE = 60.0  # seconds at most without a line, while steps go on that nobody knows the number of


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """The options of `quantize` that concern whole networks, as given."""

    given: Given
    asked: Asked
    output: Path
    threads: int | None
    to: str | None
    drop: Drop | None
    verify: bool
    json: bool


@dataclass(frozen=True, slots=True)
class Drop:
    """The user's metric by its name, and how much worse it may become."""

    metric: str
    most: float

    @staticmethod
    def asked(metric: str | None, most: float | None) -> Drop | None:
        """What was asked for, if anything; ValueError where one is missing, or cannot be."""
        if metric is None and most is None:
            return None
        if metric is None or most is None:
            raise ValueError("--metric and --max-drop go together: what is measured, and how much worse it may become")
        if not most > 0:
            raise ValueError(f"--max-drop is how much worse the metric may become, above 0; found {most:g}")
        load_hook(metric)
        return Drop(metric, most)

    def goal(self, source: OnnxSource) -> LargestDrop:
        """The goal for a source."""
        return LargestDrop(load_hook(self.metric), self.metric, self.most, callable_model(source))


def quantize_whole(options: NetworkOptions) -> None:
    """Quantize, export to OUT/export/FORM/model.onnx, and verify what was delivered."""
    use_threads(options.threads)
    recipe = options.asked.recipe()
    form = OnnxForm.STANDARD if options.to is None else find_form(options.to)
    if options.to is not None:
        check_exports(recipe, form)
    source, samples = options.given.open(options.output / EXPORTED, recipe.needs_samples)
    check_keep(source.network(), recipe.keep)
    for note in source.notes:
        err.print(f"note: {note}", soft_wrap=True)
    told = "no samples: weights are rounded to nearest"
    err.print(told if samples is None else f"{samples.count} samples: {samples.preprocessing}", soft_wrap=True)
    started, progress = time.monotonic(), Progress()
    with PeakMemory() as peak:
        goal = None if options.drop is None else options.drop.goal(source)
        network = quantize_network(source, recipe, options.output, samples, progress, goal)
    try:
        file = exported_inside(network, form)
    except ExportError as error:
        file = None
        show_warning(f"not exported: {error}")
    seconds = time.monotonic() - started
    note_run(options, seconds, peak.bytes, progress.notes)
    delivery = None
    if options.verify and file is not None:
        shown = samples or random_samples([source.network().values[name] for name in source.network().inputs], VERIFIED)
        delivery = verify_file(network, file, source, shown, options.threads or 1)
        note_delivery(options.output, delivery)
    size_of_it = stored_bytes(network) if file is None else file_bytes(file)
    data = {
        "artifact": str(options.output),
        "export": None if file is None else str(file),
        "bytes": size_of_it,
        "bytes_original": source.bytes,
        "seconds": seconds,
        "peak_ram_bytes": peak.bytes,
        "manifest": read_json(options.output / "manifest.json"),
        "delivery": delivery,
    }
    if options.json:
        say_json(data)
    else:
        _show(options, data)


def note_run(options: NetworkOptions, seconds: float, peak_bytes: int, notes: list[str]) -> None:
    """Write run.json: what the manifest must not hold; not for a run that found all of it made.

    Times and host, and in `notes` what was found of an earlier run that was stopped.
    """
    file, manifest = options.output / "run.json", options.output / "manifest.json"
    if file.is_file() and file.stat().st_mtime_ns >= manifest.stat().st_mtime_ns:
        return
    model = Path(options.given.model).name
    times = {"seconds": seconds, "blocks": [], "peak_bytes": peak_bytes}
    write_json(file, {"model": model, **times, "host": host(), "notes": notes})


class Progress:
    """Prints a line when a step begins and whenever another quarter of it is done, with the time it took so far.

    Of steps that nobody knows the number of, one a minute. Notes are printed, too, and kept.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._started = self._printed = time.monotonic()
        self._last = ("", 0)

    def __call__(self, step: Step) -> None:
        if step.note:
            self.notes.append(step.note)
            err.print(f"note: {step.note}", soft_wrap=True)
            return
        now, moment = (step.what, 4 * step.done // max(1, step.total)), time.monotonic()
        is_news = now != self._last if step.total else moment - self._printed >= SILENCE
        if is_news:
            self._last, self._printed = now, moment
            of = f"/{step.total}" if step.total else ""
            err.print(f"{duration(moment - self._started)}: {step.what} {step.done}{of}")


def show_floats(manifest: dict[str, Any]) -> None:
    """How many operators are in integers, and which are not, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in manifest["float"].items():
        reasons.setdefault(reason, []).append(name)
    say(f"{len(manifest['roles'])} operators in integers, {len(manifest['float'])} in float")
    for reason, names in reasons.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        say(f"  float: {', '.join(names[:3])}{more}: {reason}")


def show_edits(manifest: dict[str, Any]) -> None:
    """What the edits of the float network and learning came to."""
    for name, entry in manifest["edits"].items():
        least = min((one["output_noise"] for one in entry["tried"]), default=None)
        told = (
            "no place for it"
            if least is None
            else f"noise of outputs {entry['output_noise_before']:.3g} -> {least:.3g}"
        )
        left = f"; {len(entry['refused'])} places left as they are" if entry["refused"] else ""
        say(f"{name}: {'kept' if entry['is_kept'] else 'not kept'}, {told}{left}")
    if (learned := manifest.get("learned")) is not None:
        say(
            f"learned rounding: kept, {len(learned['segments'])} segments"
            if learned["kept"]
            else f"learned rounding: not kept, {learned['reason']}"
        )


def show_goal(manifest: dict[str, Any]) -> None:
    """Whether the outputs are as good as was asked, and what that took."""
    goal = manifest.get("goal")
    if goal is None:
        return
    taken = goal["rounds"][goal["taken"]]
    for asked, found in zip(goal["goals"], taken["found"], strict=True):
        if "metric" in asked:
            say(f"{asked['metric']}: {found:.4g} worse, {asked['max_drop']:g} allowed")
        else:
            say(f"outputs: {found:.1f} dB, {asked['min_sqnr']:g} asked")
    if taken["float"]:
        say(f"  {taken['float']} operators stay float for it")
    if not goal["is_met"]:
        show_warning("not as good as asked: this is what comes nearest; weights or edits with more bits may do it")


def _show(options: NetworkOptions, data: dict[str, Any]) -> None:
    table = Table(box=None, show_header=False)
    table.add_row("before", size(data["bytes_original"]))
    table.add_row("after", size(data["bytes"]))
    table.add_row("time", f"{duration(data['seconds'])}, at most {size(data['peak_ram_bytes'])} of memory")
    show(table)
    show_floats(data["manifest"])
    show_edits(data["manifest"])
    show_goal(data["manifest"])
    if data["delivery"] is not None:
        show_delivery(data["delivery"])
    path = data["artifact"]
    say(f"artifact: {path}" + ("" if data["export"] is None else f"\nexport:   {data['export']}"))
    say(f"next:     bitwright evaluate {path} --against {options.given.model} --metric pkg.mod:function")
    say(f"          bitwright report {path} -o page.html")
