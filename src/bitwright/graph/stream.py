"""What blocks hand on from one to the next, as they have it and as it is stored between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from bitwright.graph.shelf import Shelf


@dataclass(frozen=True, slots=True)
class Stream:
    """What blocks hand on, as they have it and as it is stored, with rows and tokens as its first axes.

    Blocks have a tensor in which rows lie along `rows_axis` and tokens along the next one, the other axes of `sizes`,
    and beside it the shelf. Where there is a shelf, both are stored together, as one vector for every token.
    """

    sizes: tuple[int, ...]
    rows_axis: int = 0
    shelf: Shelf = field(default_factory=Shelf)

    @property
    def width(self) -> int:
        """Stored numbers for every token."""
        return prod(self.sizes) + self.shelf.width

    def stored(
        self, called: Shaped[Tensor, "..."], left: Mapping[Any, Any], before: Shaped[Tensor, "rows tokens ..."] | None
    ) -> Shaped[Tensor, "rows tokens ..."]:
        """What to store of a block's output and of what is on the shelf; `before`: what was stored before the block."""
        moved = called.movedim((self.rows_axis, self.rows_axis + 1), (0, 1)) if self.rows_axis else called
        if not self.shelf.width:
            return moved
        rows, tokens = moved.shape[:2]
        rest = moved.new_zeros((rows, tokens, self.shelf.width)) if before is None else self._shelf(before)
        return torch.cat([moved.flatten(2), self.shelf.flat(left, rest)], 2)

    def main(self, stored: Shaped[Tensor, "rows tokens ..."]) -> Shaped[Tensor, "rows tokens ..."]:
        """Without what is on the shelf.

        In one piece, as the model itself would hold it: the last bit of a product may depend on how rows lie in memory.
        """
        return stored[..., : prod(self.sizes)].contiguous().unflatten(2, self.sizes) if self.shelf.width else stored

    def called(self, stored: Shaped[Tensor, "rows tokens ..."]) -> Shaped[Tensor, "..."]:
        """The tensor that a block is given."""
        main = self.main(stored)
        return main.movedim((0, 1), (self.rows_axis, self.rows_axis + 1)) if self.rows_axis else main

    def left(self, stored: Shaped[Tensor, "rows tokens ..."], count: int) -> dict[Any, Any]:
        """The first `count` entries of the shelf by their keys."""
        return self.shelf.shaped(self._shelf(stored), count) if self.shelf.width else {}

    def _shelf(self, stored: Tensor) -> Tensor:
        return stored[..., prod(self.sizes) :]
