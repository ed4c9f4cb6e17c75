"""`bitwright report`: one HTML page about an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli import job as options
from bitwright.cli.answer import answering, say, say_json
from bitwright.report import write_report


@answering
def report(
    artifact: Annotated[Path, typer.Argument(help="The folder that quantize wrote.", show_default=False)],
    page: Annotated[Path, typer.Option("--out", "-o", help="The page to write.", show_default=False)],
    json: options.JsonOption = False,
) -> None:
    """Write a self-contained page: figures, errors per layer, distributions, fallbacks, what to change next."""
    write_report(artifact, page)
    if json:
        say_json({"page": str(page)})
    else:
        say(f"{page}")
