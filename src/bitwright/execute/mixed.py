"""Matrix products of float32 activations with weights held in a shorter type.

Activations in float32 keep the small differences between two streams that rounding to bfloat16 would drown, but
products are several times faster on bfloat16 matrix units, and weights take half the memory. Inside this dispatch mode
a product whose factors differ in type is formed in the weight's type and its result is float32 again; everything else
runs as it is.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


@final
class MixedProducts(TorchDispatchMode):
    """Casts the activation of `activation @ weight` to the weight's type, and the result to float32."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is aten.addmm.default and args[1].dtype != args[2].dtype and not kwargs:
            return self._short(func, args)
        if func in (aten.mm.default, aten.bmm.default) and args[0].dtype != args[1].dtype:
            return self._short(func, args)
        return func(*args, **kwargs)

    def _short(self, func: Any, args: tuple[Any, ...]) -> Tensor:
        product: Tensor = func(*(factor.to(args[-1].dtype) for factor in args))
        return product.float()


def mixed_products() -> MixedProducts:
    """The mode, to be entered with `with`."""
    mode: MixedProducts = MixedProducts()  # type: ignore[no-untyped-call]
    return mode
