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
from rich.table import Table

# Names come from files that strangers wrote: nothing in them is markup, and a pipe gets lines that no width breaks.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)
_pipe = Console(highlight=False, markup=False, emoji=False, width=160)

P = ParamSpec("P")


def answering(command: Callable[P, None]) -> Callable[P, None]:
    """A command whose user errors become exit code 2."""
    return _answering(command, "Stopped.")


def resuming(command: Callable[P, None]) -> Callable[P, None]:
    """The same for a command that goes on where it was when it is run again."""
    return _answering(command, "Stopped; what is finished is kept: run the same command again to go on.")


def _answering(command: Callable[P, None], stopped: str) -> Callable[P, None]:
    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            err.print(stopped)
            raise typer.Exit(130) from None
        except (ValueError, OSError, ImportError) as error:
            err.print(f"Error: {_reason(error)}", style="red", soft_wrap=True)
            raise typer.Exit(2) from None

    return run


def _reason(error: ValueError | OSError | ImportError) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(error, ImportError) and not isinstance(cause, ImportError):  # a library that is there but broken
        return f"{error}; the cause is {type(cause).__name__}: {cause}"
    return str(error)


def show_warning(text: str) -> None:
    """A line on stderr that does not stop the command."""
    err.print(f"warning: {text}", style="yellow", soft_wrap=True)


def say(text: str, style: str | None = None) -> None:
    """A line of the result; however long, it stays one line for whoever copies from it."""
    out.print(text, style=style, soft_wrap=True)


def show(table: Table) -> None:
    """A table of the result, as wide as it needs to be where no terminal limits it."""
    (out if out.is_terminal else _pipe).print(table)


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
