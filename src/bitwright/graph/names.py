"""Names for what is added to a graph: none may be given twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final


@final
class Names:
    """The names that a graph has, and those handed out since."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def fresh(self, wanted: str) -> str:
        """A name that nothing has yet: the wanted one if it can be."""
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name
