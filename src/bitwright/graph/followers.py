"""Which values depend on certain others: those that operators make of them, and of what was made of them.

What only takes the shape of a value (`zeros_like` and its kin) does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten
_TAKES_SHAPE = frozenset(
    {
        aten.zeros_like,
        aten.ones_like,
        aten.full_like,
        aten.empty_like,
        aten.rand_like,
        aten.randn_like,
        aten.new_zeros,
        aten.new_ones,
        aten.new_full,
        aten.new_empty,
        aten.new_empty_strided,
    }
)


@final
class Followers(TorchDispatchMode):
    """While it is entered, notes what follows the values that were added; nothing is kept alive.

    `read`: how many operators have read such values.
    """

    def __init__(self, values: Iterable[object] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read = 0
        self._found: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.add(values)

    def add(self, values: Iterable[object]) -> None:
        """Follow these too, as far as they are tensors."""
        for value in values:
            if isinstance(value, Tensor):
                self._found[value] = True

    def include(self, values: Iterable[object]) -> bool:
        """Whether one of these values is among those that were added, or depends on them."""
        return any(isinstance(value, Tensor) and value in self._found for value in values)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket not in _TAKES_SHAPE and self.include(tree_iter((args, kwargs))):
            self.read += 1
            self.add(tree_iter(out))
        return out
