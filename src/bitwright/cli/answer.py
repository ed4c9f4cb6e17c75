"""How the command line answers: results on stdout, all else on stderr, errors as one paragraph and an exit code.

Exit codes: 0 done, 2 the user can mend it (the paragraph says how), 130 stopped with Ctrl-C. A traceback is a defect of
ours.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, ParamSpec

import typer
from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

P = ParamSpec("P")


def answering(command: Callable[P, None]) -> Callable[P, None]:
    """A command whose user errors become exit code 2."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            err.print("Stopped. Finished blocks are kept: run the same command again to go on.")
            raise typer.Exit(130) from None
        except (ValueError, OSError) as error:
            text = str(error) if isinstance(error, ValueError) else f"{error.filename or ''}: {error.strerror or error}"
            err.print(f"Error: {text}", style="red", markup=False, soft_wrap=True)
            raise typer.Exit(2) from None

    return run


def say_json(data: Any) -> None:
    """The one JSON object of a command that was asked for it."""
    typer.echo(json.dumps(data, indent=1, sort_keys=True))


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    return ""


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
