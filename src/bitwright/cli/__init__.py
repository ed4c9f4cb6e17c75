"""The command line: one file per verb, each parses its arguments and calls one function."""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point `bitwright`."""
    try:
        from bitwright.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.stderr.write(
            'The command line needs typer and rich: pip install "bitwright[cli]" (or [hf], which has it)\n'
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:  # while torch was being imported
        raise SystemExit(130) from None
    app()


__all__ = ["main"]
