"""Pools, resizing and sampling: operators that make space smaller, larger, or other; one function each, in one table.

Resizing works axis by axis: ONNX says where in the input each output position lies, in one of several systems of
coordinates, and the number there is a weighted sum of its 1, 2 or 4 neighbours. Any mixture of modes follows from that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from bitwright.execute.operators.operator import Inputs, Operator, UnsupportedOperator, integers, need, optional
from bitwright.execute.operators.window import Window, flat_pads, window_of
from bitwright.graph.network import Node

MAX_POOLS: Mapping[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOLS: Mapping[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _pool_window(node: Node, x: Tensor) -> tuple[Window, Window]:
    """The node's window, and the same with the padding that rounding up the number of positions adds at the end."""
    window = window_of(node, x, node.attributes["kernel_shape"])
    if len(window.size) not in MAX_POOLS:
        raise UnsupportedOperator(node, f"{len(window.size)} spatial axes")
    if not node.attributes.get("ceil_mode", 0):
        return window, window
    end = []
    for place, length in enumerate(x.shape[2:]):
        begin, stride, reach = window.begin[place], window.stride[place], window.extent[place]
        padded = length + begin + window.end[place]
        count = -(-(padded - reach) // stride) + 1
        if (count - 1) * stride >= length + begin:  # the last position must begin inside the input
            count -= 1
        end.append(window.end[place] + max((count - 1) * stride + reach - padded, 0))
    return window, replace(window, end=tuple(end))


def _max_pool(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    if len(node.outputs) > 1:
        raise UnsupportedOperator(node, "indices as a second output")
    x = need(node, inputs, 0)
    _, window = _pool_window(node, x)
    padded = F.pad(x, flat_pads(window), value=-math.inf)
    return (MAX_POOLS[len(window.size)](padded, window.size, window.stride, 0, window.dilation),)


def _average_pool(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    """The sum over the window over the number of its cells that count."""
    x = need(node, inputs, 0)
    asked, window = _pool_window(node, x)
    if any(gap != 1 for gap in window.dilation):
        raise UnsupportedOperator(node, "dilations")
    pool = AVERAGE_POOLS[len(window.size)]
    mean = pool(F.pad(x, flat_pads(window)), window.size, window.stride)
    counts = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if node.attributes.get("count_include_pad", 0):
        counts = F.pad(counts, flat_pads(asked), value=1.0)
        more = [late - early for early, late in zip(asked.end, window.end, strict=True)]
        counts = F.pad(counts, [size for last in reversed(more) for size in (0, last)])
    else:
        counts = F.pad(counts, flat_pads(window))
    share = pool(counts, window.size, window.stride)
    return (mean / share,)


def _global_average(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x = need(node, inputs, 0)
    return (x.mean(tuple(range(2, x.dim())), keepdim=True),)


def _global_max(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x = need(node, inputs, 0)
    return (x.amax(tuple(range(2, x.dim())), keepdim=True),)


def _resize(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    for attribute, plain in (("antialias", 0), ("exclude_outside", 0), ("keep_aspect_ratio_policy", "stretch")):
        if node.attributes.get(attribute, plain) != plain:
            raise UnsupportedOperator(node, attribute)
    x = need(node, inputs, 0)
    axes = [axis % x.dim() for axis in node.attributes.get("axes", range(x.dim()))]
    scales, sizes = optional(inputs, 2), integers(node, inputs, 3, "sizes")
    if sizes is None:
        if scales is None:
            raise UnsupportedOperator(node, "neither scales nor sizes")
        factors = [float(scale) for scale in scales.tolist()]
        sizes = [math.floor(x.shape[axis] * factor) for axis, factor in zip(axes, factors, strict=True)]
    else:
        factors = [size / x.shape[axis] for axis, size in zip(axes, sizes, strict=True)]
    for axis, factor, size in zip(axes, factors, sizes, strict=True):
        if factor != 1 or size != x.shape[axis]:
            x = _resize_axis(node, x, axis, factor, size)
    return (x,)


def _resize_axis(node: Node, x: Tensor, axis: int, factor: float, size: int) -> Tensor:
    length = x.shape[axis]
    places = _places(node, length, factor, size)
    y: Tensor | None = None
    for neighbour, weight in _neighbours(node, places):
        part = x.index_select(axis, neighbour.clamp(0, length - 1).long())
        if weight is not None:
            shape = [size if place == axis else 1 for place in range(x.dim())]
            part = part * weight.to(x.dtype).reshape(shape)
        y = part if y is None else y + part
    assert y is not None
    return y


def _places(node: Node, length: int, factor: float, size: int) -> Tensor:
    """Where in the input each output position lies, in steps of input positions.

    In float32, as engines do it: whether a position is a hair below a whole number or on it decides what is nearest.
    """
    mode = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    positions = torch.arange(size, dtype=torch.float32)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and size > 1):
        return (positions + 0.5) / torch.tensor([factor]) - 0.5
    if mode == "pytorch_half_pixel":
        return torch.zeros_like(positions)
    if mode == "asymmetric":
        return positions / torch.tensor([factor])
    if mode == "align_corners":
        return positions * ((length - 1) / (size - 1)) if size > 1 else torch.zeros_like(positions)
    raise UnsupportedOperator(node, f"coordinate_transformation_mode={mode}")


def _neighbours(node: Node, places: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """The input positions that make up each output position, with their weights; None for a weight of one."""
    mode = node.attributes.get("mode", "nearest")
    if mode == "nearest":
        return [(_nearest(node, places), None)]
    low = places.floor()
    rest = places - low
    if mode == "linear":
        return [(low, 1 - rest), (low + 1, rest)]
    if mode == "cubic":
        sharp = node.attributes.get("cubic_coeff_a", -0.75)
        return [(low + step, _cubic((rest - step).abs(), sharp)) for step in (-1, 0, 1, 2)]
    raise UnsupportedOperator(node, f"mode={mode}")


def _nearest(node: Node, places: Tensor) -> Tensor:
    mode = node.attributes.get("nearest_mode", "round_prefer_floor")
    match mode:
        case "round_prefer_floor":
            return torch.ceil(places - 0.5)
        case "round_prefer_ceil":
            return torch.floor(places + 0.5)
        case "floor":
            return torch.floor(places)
        case "ceil":
            return torch.ceil(places)
    raise UnsupportedOperator(node, f"nearest_mode={mode}")


def _cubic(distance: Tensor, sharp: float) -> Tensor:
    """The weight of a neighbour at this distance (0 to 2) in cubic convolution.

    Source: Keys, Cubic convolution interpolation for digital image processing, 1981, equation 5 with a = `sharp`.
    """
    near = ((sharp + 2) * distance - (sharp + 3)) * distance**2 + 1
    far = ((sharp * distance - 5 * sharp) * distance + 8 * sharp) * distance - 4 * sharp
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))


def _grid_sample(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    """The numbers at places between -1 and 1 along each axis of a picture or a volume."""
    x, grid = need(node, inputs, 0), need(node, inputs, 1)
    mode = SAMPLED.get(asked := str(node.attributes.get("mode", "linear")))
    if mode is None or x.dim() not in (4, 5) or (mode == "bicubic" and x.dim() == 5):
        raise UnsupportedOperator(node, f"mode={asked} and {x.dim() - 2} spatial axes")
    around, corners = str(node.attributes.get("padding_mode", "zeros")), bool(node.attributes.get("align_corners", 0))
    return (F.grid_sample(x, grid, mode=mode, padding_mode=around, align_corners=corners),)


# Modes of GridSample, as ONNX spells them before and since opset 20 -> as torch does
SAMPLED = {
    "nearest": "nearest",
    "bilinear": "bilinear",
    "linear": "bilinear",
    "bicubic": "bicubic",
    "cubic": "bicubic",
}
POOLING: Mapping[str, Operator] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "Resize": _resize,
    "GridSample": _grid_sample,
}
