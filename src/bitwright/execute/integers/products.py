"""Convolutions and matrix products of codes: exact sums in 32 bits, and where 16 bits saturate.

Codes less their zero are multiplied in floats, which are exact while sums stay below 2^24 (float32) or 2^53: far
faster than integer products here, with the same result.

Processors without VNNI multiply unsigned with signed bytes and add the products in pairs that lie next to each other
along the reduction, in 16 bits: 255 * 127 + 255 * 127 is more than 32,767, and is cut off there. The pairs are of the
codes as stored, whatever their zero. A convolution's reduction runs over the kernel's places and, inside each, over the
channels of the group; a place in the padding holds the zero. Depthwise convolutions multiply in 32 bits. The sums are
computed exactly, then what was cut off is added for those pairs alone that can get so far: with weights in 7 bits none.

Source: ONNX Runtime 1.32, core/mlas/lib: qgemm.h, convsym.cpp, and x86_64/QgemmU8S8KernelAvx2.S.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.nn import functional as F

from bitwright.execute.integers.codes import Codes, wrapped
from bitwright.execute.operators import OPERATORS
from bitwright.execute.operators.window import flat_pads, places_of, window_of
from bitwright.graph.network import Node

EXACT = 2**24  # whole numbers up to this are exact in float32
LOWEST, HIGHEST = -(2**15), 2**15 - 1
AT_ONCE = 2**22  # products of pairs that are held at once
CONVOLUTIONS = ("Conv", "ConvTranspose")


def sums_of(node: Node, x: Codes, weight: Codes, saturates: bool) -> Int32[Tensor, "..."]:
    """What the products add up to, without bias: in the shape of the node's output."""
    bare = replace(node, inputs=node.inputs[:2], attributes={**node.attributes, "alpha": 1.0, "beta": 1.0})
    dtype = torch.float32 if _bound(node, x, weight) <= EXACT else torch.float64
    sums = OPERATORS["", node.op](bare, [x.centred(dtype), weight.centred(dtype)])[0]
    if saturates and weight.codes.dtype == torch.int8 and node.op != "ConvTranspose":
        lost = _lost_of_convolution if node.op == "Conv" else _lost_of_product
        sums = sums.double() + lost(node, x, weight)
    return wrapped(sums)


def channel_axis(node: Node, dims: int) -> int:
    """The axis of a node's output along which the rows of its weight lie."""
    return 1 if node.op in CONVOLUTIONS else dims - 1


def weight_axis(node: Node, dims: int) -> int:
    """The axis of a weight along which it may have a scale for each output channel."""
    if node.op in CONVOLUTIONS:
        return 0 if node.op == "Conv" else 1
    return 0 if node.attributes.get("transB", 0) else dims - 1


def _bound(node: Node, x: Codes, weight: Codes) -> float:
    """More than any partial sum can be, in absolute value."""
    matrix = weight.centred(torch.float64).abs().movedim(weight_axis(node, weight.codes.dim()), 0)
    if node.op in ("MatMul", "Gemm"):
        rows = matrix.sum(-1)  # the reduction is the other of the last two axes, now the last
    else:
        rows = matrix.flatten(1).sum(1)
    largest = x.centred().abs().max() if x.codes.numel() else torch.zeros(())
    return float(rows.max()) * float(largest) if rows.numel() else 0.0


def _unsigned(x: Codes) -> Float[Tensor, "..."]:
    """Codes as the unsigned bytes that are multiplied: signed ones are moved up by 128."""
    return x.codes.float() - torch.iinfo(x.codes.dtype).min


def _lost_of_convolution(node: Node, x: Codes, weight: Codes) -> Float[Tensor, "..."]:
    """What saturation takes from the sums of a convolution."""
    groups = int(node.attributes.get("group", 1))
    rows = weight.codes.float().movedim(1, -1).flatten(1)  # places of the kernel first, channels within
    each = rows.shape[0] // groups
    if weight.codes.shape[1] == 1 and each == 1 and groups > 1:
        return torch.zeros((), dtype=torch.float64)
    window = window_of(node, x.codes, weight.codes.shape[2:])
    zero = float(x.zero) - torch.iinfo(x.codes.dtype).min
    found = []
    for picture in F.pad(_unsigned(x), flat_pads(window), value=zero).split(1):
        places = torch.stack(list(places_of(window, picture[0])))  # [places, channels, *out]
        parts = places.unflatten(1, (groups, -1)).movedim(1, 0).flatten(3).flatten(1, 2)  # [groups, K, positions]
        lost = [_lost(part, rows[i * each : (i + 1) * each]) for i, part in enumerate(parts)]
        found.append(torch.cat(lost).reshape(rows.shape[0], *places.shape[2:]))
    return torch.stack(found)


def _lost_of_product(node: Node, x: Codes, weight: Codes) -> Float[Tensor, "..."]:
    """What saturation takes from the sums of a matrix product."""
    a, b = _unsigned(x), weight.codes.float()
    a = a.mT if node.attributes.get("transA", 0) else a
    b = b if node.attributes.get("transB", 0) else b.mT  # [..., N, K]
    if b.dim() == 2:
        return _lost(a.reshape(-1, a.shape[-1]).mT, b).mT.reshape(*a.shape[:-1], b.shape[0])
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (part.expand(*batch, *part.shape[-2:]).flatten(0, -3) for part in (a, b))
    lost = torch.stack([_lost(one.mT, rows).mT for one, rows in zip(a, b, strict=True)])
    return lost.reshape(*batch, *lost.shape[-2:])


def _lost(x: Float[Tensor, "K M"], rows: Float[Tensor, "N K"]) -> Float[Tensor, "N M"]:
    """What sums of pairs of products lose by being held in 16 bits, float64; x are unsigned codes."""
    found = torch.zeros(len(rows), x.shape[1], dtype=torch.float64)
    if x.shape[0] % 2:
        x, rows = F.pad(x, (0, 0, 0, 1)), F.pad(rows, (0, 1))
    if not found.numel():
        return found
    first, second = rows[:, 0::2], rows[:, 1::2]
    tops = x.amax(1)
    top_first, top_second = tops[0::2], tops[1::2]
    most = first.clamp(min=0) * top_first + second.clamp(min=0) * top_second
    least = first.clamp(max=0) * top_first + second.clamp(max=0) * top_second
    for row, pairs in _risky((most > HIGHEST) | (least < LOWEST), max(1, AT_ONCE // x.shape[1])):
        sums = x[2 * pairs] * first[row, pairs, None] + x[2 * pairs + 1] * second[row, pairs, None]
        found[row] += (sums.clamp(LOWEST, HIGHEST) - sums).sum(0, dtype=torch.float64)
    return found


def _risky(pairs: Tensor, at_once: int) -> Iterator[tuple[int, Tensor]]:
    """Row by row the numbers of the pairs that may saturate, so many at a time."""
    for row in pairs.any(1).nonzero().flatten().tolist():
        for part in pairs[row].nonzero().flatten().split(at_once):
            yield row, part
