"""Operators with weights: convolutions, products and normalisations; one function each, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from bitwright.execute.operators.operator import Inputs, Operator, UnsupportedOperator, need, optional
from bitwright.execute.operators.window import Window, flat_pads, window_of
from bitwright.graph.network import Node

CONVOLUTIONS: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: Mapping[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _convolution(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, weight, bias = need(node, inputs, 0), need(node, inputs, 1), optional(inputs, 2)
    window = window_of(node, x, weight.shape[2:])
    groups = int(node.attributes.get("group", 1))
    padding: tuple[int, ...] = window.begin
    if window.begin != window.end:
        x, padding = F.pad(x, flat_pads(window)), (0,) * len(window.size)
    run = _of_rank(node, CONVOLUTIONS, window)
    return (run(x, weight, bias, window.stride, padding, window.dilation, groups),)


def _transposed(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    """All that the kernel reaches is computed without padding, then cut to what the node asks for."""
    x, weight, bias = need(node, inputs, 0), need(node, inputs, 1), optional(inputs, 2)
    if node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in node.attributes:
        raise UnsupportedOperator(node, "auto_pad or output_shape")
    window = window_of(node, x, weight.shape[2:])
    groups = int(node.attributes.get("group", 1))
    extra = node.attributes.get("output_padding", (0,) * len(window.size))
    run = _of_rank(node, TRANSPOSED, window)
    y = run(x, weight, None, window.stride, 0, 0, groups, window.dilation)
    # F.pad with negative numbers cuts
    pads = [
        number
        for b, e, more in reversed(list(zip(window.begin, window.end, extra, strict=True)))
        for number in (-b, more - e)
    ]
    y = F.pad(y, pads)
    return (y if bias is None else y + _per_channel(bias, y),)


def _of_rank(node: Node, table: Mapping[int, Callable[..., Tensor]], window: Window) -> Callable[..., Tensor]:
    if len(window.size) not in table:
        raise UnsupportedOperator(node, f"{len(window.size)} spatial axes")
    return table[len(window.size)]


def _per_channel(numbers: Tensor, x: Tensor) -> Tensor:
    """One number for each channel, to be broadcast over batch and space."""
    return numbers.reshape(1, -1, *(1,) * (x.dim() - 2))


def _gemm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    a, b, c = need(node, inputs, 0), need(node, inputs, 1), optional(inputs, 2)
    a = a.mT if node.attributes.get("transA", 0) else a
    b = b.mT if node.attributes.get("transB", 0) else b
    alpha, beta = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
    y = a @ b if alpha == 1 else alpha * (a @ b)
    if c is None:
        return (y,)
    return (y + c if beta == 1 else y + beta * c,)


def _matmul(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (need(node, inputs, 0) @ need(node, inputs, 1),)


def _einsum(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (torch.einsum(str(node.attributes["equation"]), *(need(node, inputs, i) for i in range(len(inputs)))),)


def _batch_norm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    if node.attributes.get("training_mode", 0):
        raise UnsupportedOperator(node, "training_mode on")
    x, scale, bias, mean, variance = (need(node, inputs, place) for place in range(5))
    factor = scale * torch.rsqrt(variance + node.attributes.get("epsilon", 1e-5))
    return ((x - _per_channel(mean, x)) * _per_channel(factor, x) + _per_channel(bias, x),)


def _standardized(x: Tensor, axes: tuple[int, ...], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """x less its mean over its standard deviation, with the mean and the inverse of the latter."""
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + epsilon)
    return (x - mean) * inverse, mean, inverse


def _layer_norm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, scale, bias = need(node, inputs, 0), need(node, inputs, 1), optional(inputs, 2)
    axis = int(node.attributes.get("axis", -1)) % x.dim()
    axes = tuple(range(axis, x.dim()))
    y, mean, inverse = _standardized(x, axes, node.attributes.get("epsilon", 1e-5))
    y = y * scale
    return (y if bias is None else y + bias), mean, inverse


def _instance_norm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, scale, bias = (need(node, inputs, place) for place in range(3))
    y = _standardized(x, tuple(range(2, x.dim())), node.attributes.get("epsilon", 1e-5))[0]
    return (y * _per_channel(scale, x) + _per_channel(bias, x),)


def _group_norm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, scale, bias = (need(node, inputs, place) for place in range(3))
    groups = int(node.attributes["num_groups"])
    grouped = x.reshape(x.shape[0], groups, -1)
    y = _standardized(grouped, (2,), node.attributes.get("epsilon", 1e-5))[0].reshape(x.shape)
    if scale.numel() != x.shape[1]:  # before opset 21 there is one number for each group
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return (y * _per_channel(scale, x) + _per_channel(bias, x),)


def _rms_norm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, scale = need(node, inputs, 0), need(node, inputs, 1)
    axes = tuple(range(int(node.attributes.get("axis", -1)) % x.dim(), x.dim()))
    size = x.square().mean(axes, keepdim=True)
    return (x * torch.rsqrt(size + node.attributes.get("epsilon", 1e-5)) * scale,)


LINEAR: Mapping[str, Operator] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "RMSNormalization": _rms_norm,
    "SimplifiedLayerNormalization": _rms_norm,
}
