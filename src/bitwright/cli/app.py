"""The verbs, put together."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Annotated

import typer

from bitwright.cli.demo import demo
from bitwright.cli.evaluate import evaluate
from bitwright.cli.export import export
from bitwright.cli.memory import keep_freed_memory
from bitwright.cli.plan import plan
from bitwright.cli.quantize import quantize
from bitwright.cli.report import report
from bitwright.cli.specialize import specialize
from bitwright.cli.tune import tune
from bitwright.version import __version__

app = typer.Typer(
    help="Post-training quantization: plan, quantize, tune, evaluate, export, report, specialize.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit
    return wanted


@app.callback()
def _quiet(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Keep the libraries underneath from writing over our output; no model hub is ever asked for anything."""
    keep_freed_memory()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


for _verb in (plan, quantize, tune, evaluate, export, report, specialize, demo):
    app.command()(_verb)
