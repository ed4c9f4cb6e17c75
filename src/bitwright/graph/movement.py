"""Operators that only move numbers, run for real on channel labels (see `labels.py`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bitwright.graph.labels import NONE, Labels, Refused, Rule, Walk, gathered, integers, laid_out, only, shape_of
from bitwright.graph.network import Node


def transposed(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Transpose."""
    labels = only(walk, node)
    order = node.attributes.get("perm") or list(reversed(range(labels.dim())))
    return (labels.permute(*[int(axis) for axis in order]),)


def reshaped(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Reshape, Flatten, Squeeze and Unsqueeze: the same numbers in the same order."""
    before = shape_of(walk, node.inputs[0])
    full = laid_out(only(walk, node), before)
    after = list(shape_of(walk, node.outputs[0]))
    wanted = walk.constant(node.inputs[1]) if node.op == "Reshape" else None
    if wanted is not None:
        keeps = not node.attributes.get("allowzero", 0)
        after = [before[i] if size == 0 and keeps else int(size) for i, size in enumerate(wanted.tolist())]
    known = 1
    for size in after:
        known *= abs(size)
    if full.numel() % max(known, 1) or (-1 not in after and full.numel() != known):
        raise Refused(f"{node.op} from {before} to {tuple(after)} moves a dimension that is not known beforehand")
    return (gathered(full.reshape(after)),)


def sliced(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Slice with constant places."""
    labels = only(walk, node)
    starts, ends = integers(walk, node, 1, "starts") or [], integers(walk, node, 2, "ends") or []
    axes = integers(walk, node, 3, "axes") or list(range(len(starts)))
    steps = integers(walk, node, 4) or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if (size := labels.shape[axis]) > 1:
            labels = labels.index_select(axis, torch.tensor(range(size)[start:end:step], dtype=torch.int64))
    return (labels,)


def gathered_at(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Gather with constant places, or along an axis on which nothing changes."""
    labels = only(walk, node)
    axis = int(node.attributes.get("axis", 0)) % labels.dim()
    places = walk.constant(node.inputs[1])
    if labels.shape[axis] == 1:
        places = torch.zeros([1] * len(shape_of(walk, node.inputs[1])), dtype=torch.int64)
    if places is None:
        raise Refused("Gather of channels at places that are known only when the network runs")
    flat = labels.index_select(axis, places.reshape(-1).long() % labels.shape[axis])
    return (flat.reshape((*labels.shape[:axis], *places.shape, *labels.shape[axis + 1 :])),)


def split(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Split, in equal or given parts."""
    labels = only(walk, node)
    axis = int(node.attributes.get("axis", 0)) % labels.dim()
    if labels.shape[axis] == 1:
        return (labels,) * len(node.outputs)
    size = -(-labels.shape[axis] // len(node.outputs))
    return tuple(labels.split(integers(walk, node, 1, "split") or size, axis))


def joined(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Concat: what comes from elsewhere is not scaled."""
    parts: list[Labels] = []
    for name in node.inputs:
        labels, shape = walk.labels(name), shape_of(walk, name)
        axis = int(node.attributes["axis"]) % len(shape)
        if labels is None:
            labels = torch.full([1] * len(shape), NONE)
        sizes = [shape[i] if i == axis else size for i, size in enumerate(labels.shape)]
        parts.append(labels.expand(sizes))
    if any(walk.network.values[name].shape[axis] is None for name in node.inputs):  # type: ignore[index]
        raise Refused("Concat along a dimension that is not known beforehand")
    largest = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    fitted = [part.expand([p if i == axis else n for i, (p, n) in enumerate(zip(part.shape, largest, strict=True))])
              for part in parts]  # fmt: skip
    return (gathered(torch.cat(fitted, axis)),)


def padded(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Pad with zeros, which no scale changes; or with copies along axes on which nothing changes."""
    labels = only(walk, node)
    pads = integers(walk, node, 1, "pads") or []
    mode = node.attributes.get("mode", "constant")
    filled = walk.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else torch.zeros(1)
    if mode == "constant" and (filled is None or bool((filled != 0).any()) or node.attributes.get("value", 0.0)):
        raise Refused("Pad with a number other than zero")
    axes = integers(walk, node, 3) or list(range(len(pads) // 2))
    for i, axis in enumerate(axes):
        before, after = pads[i], pads[i + len(axes)]
        if labels.shape[axis] == 1 or not (before or after):
            continue
        if mode != "constant" or before < 0 or after < 0:
            raise Refused(f"Pad of channels in the mode {mode}, {before} before and {after} behind")
        ends = [torch.full([n if j == axis else size for j, size in enumerate(labels.shape)], NONE)
                for n in (before, after)]  # fmt: skip
        labels = torch.cat([ends[0], labels, ends[1]], axis)
    return (labels,)


def expanded(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Expand: new axes come first."""
    labels = only(walk, node)
    rank = len(shape_of(walk, node.outputs[0]))
    return (labels.reshape((*[1] * (rank - labels.dim()), *labels.shape)),)


def between_depth_and_space(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """DepthToSpace and SpaceToDepth, as the standard spells them out."""
    full = laid_out(only(walk, node), shape_of(walk, node.inputs[0]))
    n, c, h, w = full.shape
    b = int(node.attributes["blocksize"])
    if node.op == "SpaceToDepth":
        cut = full.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
        return (gathered(cut.reshape(n, c * b * b, h // b, w // b)),)
    if node.attributes.get("mode", "DCR") == "CRD":
        cut = full.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        cut = full.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    return (gathered(cut.reshape(n, c // (b * b), h * b, w * b)),)


MOVES: Mapping[str, Rule] = dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshaped) | {
    "Transpose": transposed,
    "Slice": sliced,
    "Gather": gathered_at,
    "Split": split,
    "Concat": joined,
    "Pad": padded,
    "Expand": expanded,
    "DepthToSpace": between_depth_and_space,
    "SpaceToDepth": between_depth_and_space,
}
