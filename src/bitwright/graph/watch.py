"""Looks on while a real block runs, and hands out what flows into its linears.

`Watch` is a dispatch mode: while it is entered it sees every operator call. It calls `on_product(view, input)` for
every product with a weight of interest, and `on_add(view, other)` when the output of such a linear is added to
something, which for a writer of the stream is the stream itself. It keeps nothing alive: outputs are remembered by
weak reference. Raising `Enough` from a callback ends the run early; whoever started it catches it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from bitwright.graph.graph import WeightView
from bitwright.graph.ops import ADDS, SAME_VALUES, products, storage_key


class Enough(Exception):
    """Raised by a callback that has seen all it wants of this run."""


def ignore(view: WeightView, tensor: Tensor) -> None:
    """The callback that does nothing."""


class Watch(TorchDispatchMode):
    """Watches the products with `parameters` (name -> tensor, float matrices or fused 3-D stacks of them)."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        on_product: Callable[[WeightView, Tensor], None],
        on_add: Callable[[WeightView, Tensor], None] = ignore,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owners = {storage_key(p): (name, p) for name, p in parameters.items() if p.dim() in (2, 3)}
        self._on_product, self._on_add = on_product, on_add
        self._written: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = products(func, args, self._owners)
        for product in found:
            self._on_product(product.view, product.input)
        if func in ADDS:
            self._meet(args[0], args[1])
            self._meet(args[1], args[0])
        out = func(*args, **(kwargs or {}))
        if len(found) == 1 and isinstance(out, Tensor):
            self._written[out] = found[0].view
        elif func in SAME_VALUES and args and isinstance(args[0], Tensor) and args[0] in self._written:
            self._written[out if isinstance(out, Tensor) else out[0]] = self._written[args[0]]
        return out

    def _meet(self, writer: object, other: object) -> None:
        if isinstance(writer, Tensor) and isinstance(other, Tensor) and writer in self._written:
            self._on_add(self._written[writer], other)


def run_watched(module: Callable[[], object], watch: Watch) -> None:
    """Call `module` under the watch; returns when it ends or when a callback has seen enough."""
    try:
        with torch.no_grad(), watch:
            module()
    except Enough:
        return
