"""Operators that move numbers without changing them, or make shapes: one function each, in one table."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from bitwright.execute.operators.operator import (
    DTYPES,
    NUMBERED,
    Inputs,
    Operator,
    UnsupportedOperator,
    integers,
    need,
    optional,
)
from bitwright.graph.network import Node, Scalar


def _reshape(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, sizes = need(node, inputs, 0), [int(size) for size in need(node, inputs, 1).tolist()]
    if not node.attributes.get("allowzero", 0):
        sizes = [x.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    return (x.reshape(sizes),)


def _transpose(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x = need(node, inputs, 0)
    order = node.attributes.get("perm", tuple(reversed(range(x.dim()))))
    return (x.permute(*order) if x.dim() else x,)


def _concat(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    parts = [need(node, inputs, place) for place in range(len(inputs))]
    return (torch.cat(parts, dim=int(node.attributes["axis"])),)


def _split(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, axis = need(node, inputs, 0), int(node.attributes.get("axis", 0))
    sizes = integers(node, inputs, 1, "split")
    if sizes is None:
        count = int(node.attributes.get("num_outputs", len(node.outputs)))
        size = -(-x.shape[axis] // count)
        sizes = [size] * (count - 1) + [x.shape[axis] - size * (count - 1)]
    return tuple(torch.split(x, sizes, dim=axis))


def _slice(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x = need(node, inputs, 0)
    starts, ends = integers(node, inputs, 1, "starts") or [], integers(node, inputs, 2, "ends") or []
    axes = integers(node, inputs, 3, "axes") or list(range(len(starts)))
    steps = integers(node, inputs, 4, "steps") or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        places = range(*slice(start, end, step).indices(x.shape[axis]))
        if step == 1:
            x = x.narrow(axis, places.start if len(places) else 0, len(places))
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))
    return (x,)


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Indices from the end, which ONNX counts below zero, as indices from the beginning."""
    return torch.where(indices < 0, indices + size, indices).long()


def _gather(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, indices = need(node, inputs, 0), need(node, inputs, 1)
    axis = int(node.attributes.get("axis", 0)) % x.dim()
    flat = x.index_select(axis, _wrapped(indices, x.shape[axis]).reshape(-1))
    return (flat.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])),)


def _gather_elements(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, indices = need(node, inputs, 0), need(node, inputs, 1)
    axis = int(node.attributes.get("axis", 0))
    return (torch.gather(x, axis, _wrapped(indices, x.shape[axis])),)


def _gather_nd(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    if node.attributes.get("batch_dims", 0):
        raise UnsupportedOperator(node, "batch_dims")
    x, indices = need(node, inputs, 0), need(node, inputs, 1)
    places = tuple(_wrapped(column, size) for column, size in zip(indices.unbind(-1), x.shape, strict=False))
    return (x[places],)


def _scatter_nd(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    _check_plain(node)
    x, indices, updates = (need(node, inputs, place) for place in range(3))
    places = tuple(_wrapped(column, size) for column, size in zip(indices.unbind(-1), x.shape, strict=False))
    return (x.index_put(places, updates),)


def _scatter_elements(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    _check_plain(node)
    x, indices, updates = (need(node, inputs, place) for place in range(3))
    axis = int(node.attributes.get("axis", 0))
    return (x.scatter(axis, _wrapped(indices, x.shape[axis]), updates),)


def _check_plain(node: Node) -> None:
    if node.attributes.get("reduction", "none") != "none":
        raise UnsupportedOperator(node, f"reduction={node.attributes['reduction']}")


def _pad(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, pads = need(node, inputs, 0), integers(node, inputs, 1, "pads") or []
    fill = optional(inputs, 2)
    axes = integers(node, inputs, 3, "axes")
    axes = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    mode = str(node.attributes.get("mode", "constant"))
    around = {axis: (pads[place], pads[place + len(axes)]) for place, axis in enumerate(axes)}
    if mode == "constant":
        flat = [size for axis in reversed(range(x.dim())) for size in around.get(axis, (0, 0))]
        return (F.pad(x, flat, value=0 if fill is None else fill.item()),)
    for axis, (before, after) in around.items():
        x = x.index_select(axis, _padded_places(node, mode, x.shape[axis], (before, after)).to(x.device))
    return (x,)


def _padded_places(node: Node, mode: str, size: int, around: tuple[int, int]) -> Tensor:
    """Where along an axis each number of the padded tensor comes from."""
    places = torch.arange(-around[0], size + around[1])
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places.remainder(size)
    if mode == "reflect":
        turn = max(2 * (size - 1), 1)
        places = places.remainder(turn)
        return torch.minimum(places, turn - places) if size > 1 else torch.zeros_like(places)
    raise UnsupportedOperator(node, f"mode={mode}")


def _expand(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, sizes = need(node, inputs, 0), [int(size) for size in need(node, inputs, 1).tolist()]
    return (x.expand(torch.broadcast_shapes(x.shape, tuple(sizes))),)


def _unsqueeze(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, axes = need(node, inputs, 0), integers(node, inputs, 1, "axes") or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return (x,)


def _squeeze(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, axes = need(node, inputs, 0), integers(node, inputs, 1, "axes")
    if axes is None:
        return (x.squeeze(),)
    return (x.squeeze(tuple(axes)),)


def _flatten(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, axis = need(node, inputs, 0), int(node.attributes.get("axis", 1))
    axis = axis + x.dim() if axis < 0 else axis
    return (x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])),)


def _shape(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    sizes = list(need(node, inputs, 0).shape)
    return (torch.tensor(sizes[node.attributes.get("start", 0) : node.attributes.get("end")], dtype=torch.int64),)


def _size(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (torch.tensor(need(node, inputs, 0).numel()),)


def _constant_of_shape(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    fill = node.attributes.get("value", Scalar(0.0, "float32"))
    if not isinstance(fill, Scalar) or fill.dtype not in DTYPES:
        raise UnsupportedOperator(node, f"value={fill}")
    sizes = [int(size) for size in need(node, inputs, 0).tolist()]
    return (torch.full(sizes, fill.value, dtype=DTYPES[fill.dtype]),)


def _range(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    start, limit, step = (need(node, inputs, place) for place in range(3))
    return (torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype),)


def _tile(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (need(node, inputs, 0).repeat([int(count) for count in need(node, inputs, 1).tolist()]),)


def _depth_to_space(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, size = need(node, inputs, 0), int(node.attributes["blocksize"])
    if node.attributes.get("mode", "DCR") == "CRD":
        return (F.pixel_shuffle(x, size),)
    batch, channels, height, width = x.shape
    x = x.reshape(batch, size, size, channels // size**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return (x.reshape(batch, channels // size**2, height * size, width * size),)


def _space_to_depth(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, size = need(node, inputs, 0), int(node.attributes["blocksize"])
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // size, size, width // size, size).permute(0, 3, 5, 1, 2, 4)
    return (x.reshape(batch, channels * size**2, height // size, width // size),)


def _triangle(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, diagonal = need(node, inputs, 0), optional(inputs, 1)
    place = 0 if diagonal is None else int(diagonal)
    return (torch.triu(x, place) if node.attributes.get("upper", 1) else torch.tril(x, place),)


def _eye_like(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x = need(node, inputs, 0)
    dtype = NUMBERED.get(node.attributes.get("dtype", 0), x.dtype)
    return (torch.ones(tuple(x.shape), dtype=dtype).triu(k := int(node.attributes.get("k", 0))).tril(k),)


def _one_hot(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    indices, depth, levels = need(node, inputs, 0).long(), int(need(node, inputs, 1)), need(node, inputs, 2)
    axis = int(node.attributes.get("axis", -1))
    axis = axis + indices.dim() + 1 if axis < 0 else axis
    is_on = _wrapped(indices, depth).unsqueeze(axis) == torch.arange(depth).reshape(
        [depth if place == axis else 1 for place in range(indices.dim() + 1)]
    )
    return (torch.where(is_on, levels[1], levels[0]),)


MOVEMENT: Mapping[str, Operator] = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "ScatterElements": _scatter_elements,
    "Pad": _pad,
    "Expand": _expand,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Flatten": _flatten,
    "Shape": _shape,
    "Size": _size,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Trilu": _triangle,
    "EyeLike": _eye_like,
    "OneHot": _one_hot,
}
