"""`export` for whole networks: an ONNX file of an artifact, verified where there is something to verify it with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitwright.cli.answer import err, say, say_json, show_warning, size
from bitwright.cli.network.deliver import find_form, known_delivery, show_delivery, verify_file
from bitwright.cli.network.given import Given, original_of
from bitwright.export.delivered import export_to, file_bytes
from bitwright.export.exporter import ExportError
from bitwright.store.network_artifact import open_network
from bitwright.store.quantized import QuantizedNetwork


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """The options of `export` that concern whole networks, as given."""

    artifact: Path
    to: str
    output: Path
    against: str | None
    data: Path | None
    loader: str | None
    threads: int
    verify: bool
    json: bool


def export_whole(options: ExportOptions) -> None:
    """Write DIR/model.onnx, and say what is known of it or found out about it now."""
    form = find_form(options.to)
    has_samples = options.data is not None or options.loader is not None
    if (options.against is None) == has_samples:
        raise ValueError("to verify the file give both --against MODEL and --data FILE_OR_DIR (or --loader)")
    if options.output.resolve() == options.artifact.resolve():
        raise ExportError(f"{options.output} is the artifact itself: give another folder to export to")
    network = open_network(options.artifact)
    file = export_to(network, options.output, form)
    delivery = _delivery(options, network, file) if options.verify else None
    if options.json:
        say_json({"file": str(file), "bytes": file_bytes(file), "delivery": delivery})
        return
    say(f"{file}: {size(file_bytes(file))}")
    if delivery is not None:
        show_delivery(delivery)


def _delivery(options: ExportOptions, network: QuantizedNetwork, file: Path) -> dict[str, Any] | None:
    if options.against is not None:
        given = Given(options.against, options.data, options.loader, count=128)
        source = original_of(options.artifact, options.against)
        samples = given.samples(source)
        return verify_file(network, file, source, samples, options.threads)
    known = known_delivery(options.artifact, file)
    if known is None:
        show_warning(
            "not verified: quantize did not verify this file; give --against MODEL and --data FILE_OR_DIR to do it "
            "now, or --no-verify"
        )
    else:
        err.print("the same file as quantize has verified:")
    return known
