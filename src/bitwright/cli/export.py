"""`bitwright export`: the artifact as a checkpoint that other software loads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli import job as options
from bitwright.cli.answer import answering, out, say_json, size
from bitwright.export import EXPORTERS
from bitwright.export import export as write
from bitwright.store.artifact import open_artifact


@answering
def export(
    artifact: Annotated[Path, typer.Argument(help="The folder that quantize wrote.", show_default=False)],
    to: Annotated[str, typer.Option("--to", help=f"One of {', '.join(EXPORTERS)}.", show_default=False)],
    output: Annotated[Path, typer.Option("--out", "-o", help="Folder for the checkpoint.", show_default=False)],
    json: options.JsonOption = False,
) -> None:
    """Write a Hugging Face folder: compressed-tensors for serving engines, or dense, which any program loads."""
    if to not in EXPORTERS:
        raise ValueError(f"--to is one of {', '.join(EXPORTERS)}; found {to!r}")
    report = write(open_artifact(artifact), EXPORTERS[to](), output)
    if json:
        say_json({"folder": str(output), **asdict(report)})
        return
    out.print(f"{output}: {len(report.files)} files, {size(report.bytes)}")
    for note in report.notes:
        out.print(f"note: {note}", markup=False)
