"""What a linear operator multiplies its weight with: the columns behind every number that it makes.

A convolution is a matrix product with patches of its input; a grouped one is several, each with its own channels. So
everything that works on matrices (second moments, error feedback) works on convolutions. Padding is in the patches, as
the zeros that the operator reads there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from bitwright.graph.network import Network, Node

POSITIONS = 1 << 15  # columns of one batch that are looked at; more of the same picture say little more


def output_axis(node: Node) -> int:
    """The axis of the weight along which the output channels lie (of one group, in a grouped ConvTranspose).

    Of a table it is the one along which rows are picked.
    """
    if node.op in ("Conv", "LSTM", "Gather"):
        return 0
    if node.op == "Gemm":
        return 0 if node.attributes.get("transB", 0) else 1
    return 1


def rows_of(node: Node, weight: Float[Tensor, "..."]) -> Float[Tensor, "out in"]:
    """The weight of a node as a matrix, float32: one row for each slice along its output axis.

    Those of a recurrent operator, [directions, gates, inputs], have one for each gate of each direction.
    """
    if node.op == "LSTM":
        return weight.float().reshape(-1, weight.shape[-1])
    axis = output_axis(node)
    return weight.float().movedim(axis, 0).reshape(weight.shape[axis], -1)


def groups_of(node: Node) -> int:
    """Into how many independent products a node falls apart."""
    return int(node.attributes.get("group", 1)) if node.op == "Conv" else 1


def has_patches(network: Network, node: Node) -> bool:
    """Whether `patches` knows the node: matrix products, and convolutions over one or two axes."""
    if node.op in ("MatMul", "Gemm"):
        return True
    shape = network.values[node.inputs[1]].shape
    return node.op == "Conv" and shape is not None and len(shape) in (3, 4)


def patches(node: Node, kernel: tuple[int, ...], values: Float[Tensor, "..."]) -> Float[Tensor, "groups columns in"]:
    """The columns of each group for these input values; at most POSITIONS of them, chosen at random.

    `kernel`: the shape of the weight. The order along `in` is that of the weight's slices along `output_axis`.
    """
    if node.op in ("MatMul", "Gemm"):
        return _thinned(values.reshape(1, -1, values.shape[-1]))
    values, size = _padded(node, kernel, values)
    strides, dilations = _pair(node.attributes, "strides"), _pair(node.attributes, "dilations")
    found = functional.unfold(values, size, dilation=dilations, stride=strides)
    groups = groups_of(node)
    split = found.reshape(found.shape[0], groups, -1, found.shape[-1])
    return _thinned(split.permute(1, 0, 3, 2).reshape(groups, -1, split.shape[2]))


def mean_patch(node: Node, kernel: tuple[int, ...], values: Float[Tensor, "..."]) -> Float[Tensor, "groups in"]:
    """The mean of all columns, none left out; float64. A weight times it is the mean of what the operator makes."""
    if node.op in ("MatMul", "Gemm"):
        return values.double().reshape(1, -1, values.shape[-1]).mean(1)
    values, size = _padded(node, kernel, values)
    means = []
    for down in range(size[0]):
        for along in range(size[1]):
            starts = (down * _pair(node.attributes, "dilations")[0], along * _pair(node.attributes, "dilations")[1])
            part = values[:, :, _places(node, 0, starts, size, values), :][
                :, :, :, _places(node, 1, starts, size, values)
            ]
            means.append(part.double().mean((0, 2, 3)))
    return torch.stack(means, 1).reshape(groups_of(node), -1)


def _places(node: Node, axis: int, starts: tuple[int, int], size: tuple[int, ...], values: Tensor) -> slice:
    """Where one number of the kernel lies on an axis, for all positions of the kernel."""
    stride, reach = _pair(node.attributes, "strides")[axis], _pair(node.attributes, "dilations")[axis]
    count = (values.shape[2 + axis] - (size[axis] - 1) * reach - 1) // stride + 1
    return slice(starts[axis], starts[axis] + (count - 1) * stride + 1, stride)


def _padded(node: Node, kernel: tuple[int, ...], values: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The values with the operator's zeros around them, and its kernel; one axis is made two."""
    size = kernel[2:]
    if len(size) == 1:
        values, size = values[..., None, :], (1, *size)
    top, left, bottom, right = _pads(node, size, values.shape[-2:])
    return functional.pad(values, (left, right, top, bottom)), size


def _thinned(columns: Float[Tensor, "groups columns in"]) -> Float[Tensor, "groups kept in"]:
    if columns.shape[1] <= POSITIONS:
        return columns
    chosen = torch.randperm(columns.shape[1], generator=torch.Generator().manual_seed(0))[:POSITIONS]
    return columns[:, chosen]


def _pair(attributes: Mapping[str, Any], name: str) -> tuple[int, int]:
    given = tuple(attributes.get(name, (1, 1)))
    return (1, given[0]) if len(given) == 1 else (given[0], given[1])


def _pads(node: Node, size: tuple[int, ...], shape: torch.Size) -> tuple[int, int, int, int]:
    """Zeros at the top, left, bottom and right."""
    mode = node.attributes.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        given = tuple(node.attributes.get("pads", (0,) * 4))
        return (0, given[0], 0, given[1]) if len(given) == 2 else (given[0], given[1], given[2], given[3])
    if mode == "VALID":
        return 0, 0, 0, 0
    strides, dilations = _pair(node.attributes, "strides"), _pair(node.attributes, "dilations")
    before, after = [], []
    for length, kernel, stride, dilation in zip(shape, size, strides, dilations, strict=True):
        total = max(0, (-(-length // stride) - 1) * stride + (kernel - 1) * dilation + 1 - length)
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before[0], before[1], after[0], after[1]
