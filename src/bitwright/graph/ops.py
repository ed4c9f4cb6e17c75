"""Recognises, among the operators that run, the few that quantization cares about.

PyTorch lowers every way of writing a linear layer (nn.Linear, a transposed Conv1D, a slice of fused experts) to a
matrix product with a view of a parameter. A view shares its parameter's storage, so offset and strides tell which
slice it is and whether it is stored [out, in] or [in, out]; no module class needs to be known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.graph.graph import WeightView

aten = torch.ops.aten

# operators whose output holds the same numbers as their first input
SAME_VALUES = frozenset(
    {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.detach.default, aten.alias.default}
    | {aten.clone.default, aten._to_copy.default, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.default}
    | {
        aten.to.dtype,
        aten.expand.default,
        aten.contiguous.default,
        aten.lift_fresh.default,
        aten.native_dropout.default,
    }
)
ADDS = frozenset({aten.add.Tensor, aten.add_.Tensor})
RANKS = frozenset({aten.topk.default, aten.sort.default, aten.argmax.default, aten.sort.stable, aten.max.dim})


@dataclass(frozen=True, slots=True)
class Product:
    """input @ view.T for one weight: input [tokens, in]."""

    view: WeightView
    input: Tensor


def storage_key(tensor: Tensor) -> int:
    """Equal for tensors that share memory (while it is alive)."""
    key: int = tensor.untyped_storage()._cdata
    return key


def products(func: object, args: tuple[object, ...], owners: Mapping[int, tuple[str, Tensor]]) -> list[Product]:
    """The weight products that this operator call performs; empty for any other operator.

    `owners` maps storages to (name, parameter). A product with a part of a parameter that is not a whole matrix of it
    is left out: such a parameter cannot be replaced by a quantized one, and stays as it is.
    """
    match func:
        case aten.mm.default:
            left, right = args[0], args[1]
        case aten.addmm.default:
            left, right = args[1], args[2]
        case aten.linear.default:
            left, right = args[0], args[1]
            assert isinstance(right, Tensor) and isinstance(left, Tensor)
            left, right = left.reshape(-1, left.shape[-1]), right.mT
        case aten.bmm.default:
            return _batched(args[0], args[1], owners)
        case _:
            return []
    assert isinstance(left, Tensor) and isinstance(right, Tensor)
    view = matrix_view(right, owners)
    return [] if view is None else [Product(view, left)]


def _batched(left: object, right: object, owners: Mapping[int, tuple[str, Tensor]]) -> list[Product]:
    assert isinstance(left, Tensor) and isinstance(right, Tensor)
    found = owners.get(storage_key(right))
    if found is None or found[1].dim() != 3 or right.shape[0] != found[1].shape[0]:
        return []
    views = [matrix_view(right[i], owners) for i in range(right.shape[0])]
    return [Product(view, left[i]) for i, view in enumerate(views) if view is not None]


def matrix_view(right: Tensor, owners: Mapping[int, tuple[str, Tensor]]) -> WeightView | None:
    """Which weight the operand `right` [in, out] of a product is, or None if it is no whole matrix of a parameter."""
    found = owners.get(storage_key(right))
    if found is None:
        return None
    name, parameter = found
    if parameter.dim() not in (2, 3) or not parameter.is_contiguous():
        return None
    rows, cols = parameter.shape[-2:]
    offset = right.storage_offset() - parameter.storage_offset()
    if offset % (rows * cols) or (parameter.dim() == 2 and offset):
        return None
    index = offset // (rows * cols) if parameter.dim() == 3 else None
    if tuple(right.shape) == (cols, rows) and right.stride() == (1, cols):
        return WeightView(name, (rows, cols), index)
    if tuple(right.shape) == (rows, cols) and right.stride() == (cols, 1):
        return WeightView(name, (cols, rows), index, transposed=True)
    return None
