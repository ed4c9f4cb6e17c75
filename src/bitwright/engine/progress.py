"""Progress of a run, as it is told to whoever started it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Step:
    """What is being done, how much of it is done, and of how much (0: nobody knows).

    `note`: what whoever started it should know.
    """

    what: str
    done: int
    total: int
    note: str = ""


OnStep = Callable[[Step], None]


def ignore(step: Step) -> None:
    """The callback that does nothing."""
