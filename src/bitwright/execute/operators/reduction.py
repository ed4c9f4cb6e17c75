"""Operators that sum up along axes, rank, or count: one function each, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bitwright.execute.operators.operator import Inputs, Operator, UnsupportedOperator, integers, need
from bitwright.graph.network import Node


def _reduction(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Operator:
    """Axes are an input or an attribute; none means all, unless the node says that then nothing is done."""

    def reduced(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
        x = need(node, inputs, 0)
        axes = integers(node, inputs, 1, "axes")
        if not axes:
            if node.attributes.get("noop_with_empty_axes", 0):
                return (x,)
            axes = list(range(x.dim()))
        keep = bool(node.attributes.get("keepdims", 1))
        return (function(x, tuple(axis % max(x.dim(), 1) for axis in axes), keep) if x.dim() else x,)

    return reduced


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, dim=axis, keepdim=keep)
    return x


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.mean(x, dim=axes, keepdim=keep)


def _norm(order: float) -> Callable[[Tensor, tuple[int, ...], bool], Tensor]:
    return lambda x, axes, keep: torch.linalg.vector_norm(x, order, dim=axes, keepdim=keep)


def _arg(function: Callable[..., Tensor]) -> Operator:
    def found(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
        x, axis = need(node, inputs, 0), int(node.attributes.get("axis", 0))
        keep = bool(node.attributes.get("keepdims", 1))
        if not node.attributes.get("select_last_index", 0):
            return (function(x, dim=axis, keepdim=keep),)
        return (x.shape[axis] - 1 - function(x.flip(axis), dim=axis, keepdim=keep),)

    return found


def _cumulative_sum(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, axis = need(node, inputs, 0), int(need(node, inputs, 1))
    is_reversed = bool(node.attributes.get("reverse", 0))
    x = x.flip(axis) if is_reversed else x
    total = torch.cumsum(x, dim=axis, dtype=x.dtype)
    if node.attributes.get("exclusive", 0):
        total = total - x
    return (total.flip(axis) if is_reversed else total,)


def _top_k(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, count = need(node, inputs, 0), int(need(node, inputs, 1))
    axis, largest = int(node.attributes.get("axis", -1)), bool(node.attributes.get("largest", 1))
    order = torch.argsort(x, dim=axis, descending=largest, stable=True).narrow(axis, 0, count)  # ties: lower index
    return torch.gather(x, axis, order), order


def _non_zero(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (torch.nonzero(need(node, inputs, 0)).T,)


def _lp_normalization(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    order = int(node.attributes.get("p", 2))
    if order not in (1, 2):
        raise UnsupportedOperator(node, f"p={order}")
    x, axis = need(node, inputs, 0), int(node.attributes.get("axis", -1))
    return (x / torch.linalg.vector_norm(x, order, dim=axis, keepdim=True),)


REDUCTIONS: Mapping[str, Operator] = {
    "ReduceMean": _reduction(_mean),
    "ReduceSum": _reduction(lambda x, axes, keep: torch.sum(x, dim=axes, keepdim=keep, dtype=x.dtype)),
    "ReduceMax": _reduction(lambda x, axes, keep: torch.amax(x, dim=axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: torch.amin(x, dim=axes, keepdim=keep)),
    "ReduceProd": _reduction(_product),
    "ReduceL1": _reduction(_norm(1)),
    "ReduceL2": _reduction(_norm(2)),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: torch.logsumexp(x, dim=axes, keepdim=keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: torch.sum(x * x, dim=axes, keepdim=keep)),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "CumSum": _cumulative_sum,
    "TopK": _top_k,
    "NonZero": _non_zero,
    "LpNormalization": _lp_normalization,
}
