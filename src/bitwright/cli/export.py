"""`bitwright export`: the artifact as files that other software loads."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli import job as options
from bitwright.cli.answer import answering, say, say_json, size
from bitwright.cli.which import is_network_artifact, refuse
from bitwright.export import EXPORTERS
from bitwright.export import export as write
from bitwright.recipe.plan import Plan
from bitwright.store.artifact import Artifact, Entry, open_artifact
from bitwright.store.source import Source


@answering
def export(
    artifact: Annotated[Path, typer.Argument(help="The folder that quantize wrote.", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            "--to", help=f"One of {', '.join(EXPORTERS)}; whole networks: onnx, onnx-nbits.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.", show_default=False)],
    against: Annotated[
        str | None,
        typer.Option("--against", "-a", help="Whole networks: the original, to verify with.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Whole networks: samples to verify with.", show_default=False),
    ] = None,
    loader: options.LoaderOption = None,
    threads: options.ThreadsOption = None,
    no_verify: options.NoVerifyOption = False,
    json: options.JsonOption = False,
) -> None:
    """Write what other software loads: a Hugging Face folder of a language model, an ONNX file of any other network.

    A language model goes to compressed-tensors for serving engines, or to dense, which any program loads. The ONNX file
    is verified in the engines with --against and --data; one that quantize has verified before needs neither.
    """
    options.use_threads(threads)
    if is_network_artifact(artifact):
        from bitwright.cli.network.export import ExportOptions, export_whole  # needs the onnx extra

        export_whole(ExportOptions(artifact, to, output, against, data, loader, threads or 1, not no_verify, json))
        return
    refuse("whole networks", against=against, data=data, loader=loader, no_verify=no_verify)
    check_form(to)
    report = write(open_artifact(artifact), EXPORTERS[to](), output)
    if json:
        say_json({"folder": str(output), **asdict(report)})
        return
    say(f"{output}: {len(report.files)} files, {size(report.bytes)}")
    for note in report.notes:
        say(f"note: {note}")


def check_form(to: str, source: Source | None = None, entries: Sequence[Entry] = ()) -> None:
    """ValueError where there is no such form, or where it cannot hold these weights of a source: before any work."""
    if to not in EXPORTERS:
        raise ValueError(f"--to is one of {', '.join(EXPORTERS)}; found {to!r}")
    if source is not None:
        EXPORTERS[to]().check(source, entries)


def planned(plan: Plan) -> list[Entry]:
    """The weights that a plan will quantize, as an artifact will list them."""
    return [
        Entry(view.name, view.parameter, view.index, view.transposed, view.shape, spec, None)
        for view, spec in plan.views()
    ]


def export_inside(artifact: Artifact, to: str) -> Path:
    """The folder export/FORMAT of the artifact, written unless it is there already and whole."""
    folder = artifact.path / "export" / to
    last = folder / "config.json"  # what an export writes last
    made = max(file.stat().st_mtime_ns for _, file in artifact.parts())
    if not last.is_file() or last.stat().st_mtime_ns < made:
        shutil.rmtree(folder, ignore_errors=True)
        write(artifact, EXPORTERS[to](), folder)
    return folder
