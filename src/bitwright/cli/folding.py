"""Lines of a plan with what is alike folded: under a title, names that differ by numbers alone take one row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rich.table import Table

from bitwright.cli.answer import say, show


@dataclass(frozen=True, slots=True)
class Line:
    """One weight or operator under its title; `what` is its shape or its kind."""

    title: str
    name: str
    what: str
    bytes: int


Rows = Mapping[tuple[str, str], list[int]]


def folded(lines: Iterable[Line], pattern: Callable[[str], str]) -> dict[str, Rows]:
    """Title -> name with numbers replaced, and what -> the bytes of each line that has these."""
    found: dict[str, dict[tuple[str, str], list[int]]] = {}
    for line in lines:
        found.setdefault(line.title, {}).setdefault((pattern(line.name), line.what), []).append(line.bytes)
    return dict(found)


def show_rows(title: str, headings: tuple[str, str], rows: Rows) -> None:
    """A table under its title. `headings`: of names and of what they are; bytes are left out where there are none."""
    say(title, style="bold")
    has_bytes = any(sum(sizes) for sizes in rows.values())
    table = Table(box=None, header_style="dim")
    table.add_column(headings[0], overflow="fold")
    table.add_column("count", justify="right")
    table.add_column(headings[1], justify="right", overflow="fold")
    if has_bytes:
        table.add_column("bytes", justify="right")
    for (name, what), sizes in rows.items():
        table.add_row(name, str(len(sizes)), what, *([f"{sum(sizes):,}"] if has_bytes else []))
    show(table)
