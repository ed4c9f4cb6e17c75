"""Matrix products of float32 activations with weights held in a shorter type, and of short factors on any machine.

Activations in float32 keep the small differences between two streams that rounding to bfloat16 would drown, but
products are several times faster on bfloat16 matrix units, and weights take half the memory. Inside this dispatch mode
a product whose factors differ in type is formed in the weight's type and its result is float32 again. Where there are
such units, queries, keys and values of an attention that is one operator are rounded as well (its biases are not, its
sums are float32); everything else runs as it is. On machines without such units another mode, below that one and below
all that look on, forms products of bfloat16 factors in float32: the numbers are the same but for the order of sums, the
time is a fraction.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bitwright.numerics.short import has_short_units, long_product

aten = torch.ops.aten
_ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu.default


@final
class MixedProducts(TorchDispatchMode):
    """Casts the activation of `activation @ weight`, and the factors of attention, and the result back to float32."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is aten.addmm.default and args[1].dtype != args[2].dtype and not kwargs:
            return self._short(func, args)
        if func in (aten.mm.default, aten.bmm.default) and args[0].dtype != args[1].dtype:
            return self._short(func, args)
        if func is _ATTENTION and args[0].dtype == torch.float32 and has_short_units():
            output, *others = func(*(factor.bfloat16() for factor in args[:3]), *args[3:], **kwargs)
            return output.float(), *others
        return func(*args, **kwargs)

    def _short(self, func: Any, args: tuple[Any, ...]) -> Tensor:
        product: Tensor = func(*(factor.to(args[-1].dtype) for factor in args))
        return product.float()


def mixed_products() -> MixedProducts:
    """The mode, to be entered with `with`."""
    mode: MixedProducts = MixedProducts()  # type: ignore[no-untyped-call]
    return mode


@final
class LongProducts(TorchDispatchMode):
    """Forms products of bfloat16 factors in float32, and rounds them to bfloat16."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        is_short = func in _PRODUCTS and not kwargs and all(one.dtype == torch.bfloat16 for one in args[-2:])
        if not is_short:
            return func(*args, **kwargs)
        if func is aten.bmm.default:
            return torch.stack([long_product(left, right) for left, right in zip(*args, strict=True)])
        return long_product(*args[-2:], *args[:-2])


_PRODUCTS = frozenset({aten.mm.default, aten.bmm.default, aten.addmm.default})


def short_factors() -> AbstractContextManager[object]:
    """To be entered, before anything that looks on, where products of bfloat16 factors may be formed."""
    if has_short_units():
        return nullcontext()
    mode: LongProducts = LongProducts()  # type: ignore[no-untyped-call]
    return mode
