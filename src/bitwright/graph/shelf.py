"""What blocks leave for later ones beside the stream, in a mapping that all of them are given: keys and values, say.

Between two blocks it travels with the stream: one vector for every token, in which every tensor has a place of its own
from the first block to the last, zeros until it is made. So it is stored, resumed, compared and learned through as
the stream is, and nothing else needs to know of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor on the shelf: rows along its first axis, tokens along `axis`, the others of `sizes`."""

    axis: int
    sizes: tuple[int, ...]

    @property
    def width(self) -> int:
        """Numbers for every token."""
        return prod(self.sizes)

    def flat(self, tensor: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows tokens width"]:
        """The tensor as a vector for every token."""
        moved = tensor.movedim(self.axis, 1)
        return moved.reshape(*moved.shape[:2], self.width)

    def shaped(self, flat: Float[Tensor, "rows tokens width"]) -> Float[Tensor, "rows ..."]:
        """The inverse of `flat`."""
        return flat.reshape(*flat.shape[:2], *self.sizes).movedim(1, self.axis)


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies under one key: a structure of tensors."""

    key: Any
    structure: Any
    parts: tuple[Part, ...]

    @staticmethod
    def read(key: Any, value: Any, tokens: int) -> Entry | None:
        """The entry of a value that one row of so many tokens made; None if that is not floats for every token."""
        leaves, structure = tree_flatten(value)
        parts = [_part(leaf, tokens) for leaf in leaves]
        known = tuple(part for part in parts if part is not None)
        return Entry(key, structure, known) if known and len(known) == len(parts) else None

    @property
    def width(self) -> int:
        """Numbers for every token."""
        return sum(part.width for part in self.parts)

    def flat(self, value: Any) -> Float[Tensor, "rows tokens width"]:
        """All tensors of a value, one after the other, as a vector for every token."""
        leaves = tree_flatten(value)[0]
        return torch.cat([part.flat(leaf) for part, leaf in zip(self.parts, leaves, strict=True)], 2)

    def shaped(self, flat: Float[Tensor, "rows tokens width"]) -> Any:
        """The inverse of `flat`."""
        pieces = flat.split([part.width for part in self.parts], 2)
        return tree_unflatten([part.shaped(one) for part, one in zip(self.parts, pieces, strict=True)], self.structure)


@dataclass(frozen=True, slots=True)
class Shelf:
    """Everything that any block leaves, in the order in which it is first made."""

    entries: tuple[Entry, ...] = ()

    @property
    def width(self) -> int:
        """Numbers for every token."""
        return sum(entry.width for entry in self.entries)

    def flat(self, values: Mapping[Any, Any], before: Float[Tensor, "rows tokens width"]) -> Tensor:
        """The values as a vector for every token; where a key is absent, what was there before."""
        pieces = zip(self.entries, before.split([entry.width for entry in self.entries], 2), strict=True)
        return torch.cat([e.flat(values[e.key]).to(old.dtype) if e.key in values else old for e, old in pieces], 2)

    def shaped(self, flat: Float[Tensor, "rows tokens width"], count: int) -> dict[Any, Any]:
        """The first `count` entries by their keys."""
        pieces = flat.split([entry.width for entry in self.entries], 2)
        return {entry.key: entry.shaped(one) for entry, one in list(zip(self.entries, pieces, strict=True))[:count]}


def _part(leaf: object, tokens: int) -> Part | None:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.dim() < 2 or leaf.shape[0] != 1:
        return None
    axes = [axis for axis in range(1, leaf.dim()) if leaf.shape[axis] == tokens]
    if len(axes) != 1:
        return None
    return Part(axes[0], tuple(size for axis, size in enumerate(leaf.shape) if axis not in (0, axes[0])))
