"""Sums, products and means of codes, element by element, as ONNX Runtime's kernels compute them.

On x86 a sum is two fused multiply-adds in float32 on top of one constant, in an order that decides about halves; on ARM
it is an integer multiplier for each operand, with 22 bits for the larger, and one shift. Fused operations are computed
in float64 and rounded once to float32: exact but where that rounds twice, about once in 2^29.

Source: ONNX Runtime 1.32, core/mlas/lib: intrinsics/avx2/qladd_avx2.cpp, qladd.cpp, qlmul.cpp, qlgavgpool.cpp;
contrib_ops/cpu/quantization/qlinear_pool.cc.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor
from torch.nn import functional as F

from bitwright.execute.integers.codes import Codes, Quantizer
from bitwright.execute.operators.window import flat_pads, places_of, window_of
from bitwright.graph.network import Node
from bitwright.numerics import Scaling

RATIOS = (2.0**-14, 2.0**8)  # of scales, between which the shifted sum is used
BITS = 21  # of the larger multiplier of a shifted sum, below its leading bit
MANTISSA = 23


def blended(node: Node, operands: Sequence[Codes], quantizer: Quantizer, scaling: Scaling) -> Shaped[Tensor, "..."]:
    """Codes of what a node makes of its operands.

    Where sums are scaled by a float, on x86, ONNX Runtime makes signed codes unsigned first, which moves the zeros and
    so what is rounded on the way.
    """
    if scaling is Scaling.MULTIPLY and quantizer.dtype == torch.int8:
        up = -quantizer.low
        codes = blended(node, [one.moved(up) for one in operands], quantizer.moved(up), scaling)
        return (codes.short() - up).to(torch.int8)
    match node.op:
        case "Add":
            return added(operands[0], operands[1], quantizer, scaling)
        case "Mul":
            return multiplied(operands[0], operands[1], quantizer)
        case "AveragePool":
            return averaged(node, operands[0], quantizer)
        case _:
            return averaged_all(operands[0], quantizer, scaling)


def added(a: Codes, b: Codes, quantizer: Quantizer, scaling: Scaling) -> Shaped[Tensor, "..."]:
    """Codes of a + b."""
    if scaling is Scaling.SHIFT:
        return _added_by_shift(a, b, quantizer)
    first, second = a.scale.reshape(()) / quantizer.scale, b.scale.reshape(()) / quantizer.scale
    offset = _fused(first, a.zero.reshape(()), second * b.zero.float().reshape(()))
    start = float(quantizer.zero) - offset
    if _is_spread(a, b):  # the operand that is one number for a run of the other is added first
        a, b, first, second = b, a, second, first
    steps = _fused(first, a.codes, _fused(second, b.codes, start))
    return _saturated(steps, quantizer)


def multiplied(a: Codes, b: Codes, quantizer: Quantizer) -> Shaped[Tensor, "..."]:
    """Codes of a * b."""
    factor = a.scale.reshape(()) * b.scale.reshape(()) / quantizer.scale
    return _saturated(a.centred() * b.centred() * factor + float(quantizer.zero), quantizer)


def averaged(node: Node, x: Codes, quantizer: Quantizer) -> Shaped[Tensor, "..."]:
    """Codes of the means over a window, added up in float32 place by place; dilations and rounding up are not covered.

    A place in the padding adds nothing, and counts where the node says so.
    """
    values = x.dequantize()
    window = window_of(node, values, node.attributes["kernel_shape"])
    padded = F.pad(values, flat_pads(window))
    inside = F.pad(torch.ones_like(values[:1, :1]), flat_pads(window))
    if node.attributes.get("count_include_pad", 0):
        inside = torch.ones_like(inside)
    total = count = torch.zeros(())
    for part, seen in zip(places_of(window, padded), places_of(window, inside), strict=True):
        total, count = total + part, count + seen
    steps = total / count / quantizer.scale + float(quantizer.zero)
    return _saturated(steps, quantizer)


def averaged_all(x: Codes, quantizer: Quantizer, scaling: Scaling) -> Shaped[Tensor, "..."]:
    """Codes of the means over all space."""
    space = tuple(range(2, x.codes.dim()))
    count = math.prod(x.codes.shape[2:])
    sums = x.codes.long().sum(space, keepdim=True) - int(x.zero) * count
    factor = x.scale.reshape(()) / (quantizer.scale * float(count))
    if scaling is Scaling.MULTIPLY:
        return quantizer.rounded(sums.float() * factor)
    mantissa, exponent = math.frexp(float(factor))  # factor = mantissa * 2^exponent with a mantissa from 0.5
    multiplier = int(mantissa * 2 ** (MANTISSA + 1))
    return quantizer.shifted(_shifted(sums * multiplier, MANTISSA + 1 - exponent))


def _added_by_shift(a: Codes, b: Codes, quantizer: Quantizer) -> Shaped[Tensor, "..."]:
    """A sum in whole numbers; by floats where the scales lie so far apart that the multipliers do not fit."""
    first, second = float(a.scale / quantizer.scale), float(b.scale / quantizer.scale)
    exponent = math.frexp(max(first, second))[1] - 1
    shift = BITS - exponent
    multipliers = [round(ratio * 2**shift) for ratio in (first, second)]
    fits = all(RATIOS[0] <= ratio < RATIOS[1] for ratio in (first, second)) and 13 <= shift <= 31
    if not fits or max(multipliers) >= 2 ** (BITS + 1):
        steps = (a.dequantize() + b.dequantize()) / quantizer.scale
        return _saturated(steps + float(quantizer.zero), quantizer)
    parts = [
        (held.codes.int() - held.zero.int().reshape(())).long() * number
        for held, number in zip((a, b), multipliers, strict=True)
    ]
    first_part, second_part = parts
    return quantizer.shifted(_shifted(first_part + second_part, shift))


def _shifted(whole: Integer[Tensor, "..."], shift: int) -> Integer[Tensor, "..."]:
    """A division by 2^shift, rounded half away from zero."""
    return torch.bitwise_right_shift(whole - (whole < 0).long() + 2 ** (shift - 1), shift)


def _fused(factor: Tensor, codes: Integer[Tensor, "..."], rest: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """factor * code + rest, rounded once."""
    return (factor.double() * codes.double() + rest.double()).float()


def _saturated(steps: Float[Tensor, "..."], quantizer: Quantizer) -> Shaped[Tensor, "..."]:
    """Codes of numbers that hold the zero already: rounded half to even with it."""
    return steps.round().clamp(quantizer.low, quantizer.high).to(quantizer.dtype)


def _is_spread(a: Codes, b: Codes) -> bool:
    """Whether the first operand is one number for a run of the second's."""
    shapes = [(1,) * max(0, b.codes.dim() - a.codes.dim()) + tuple(a.codes.shape), tuple(b.codes.shape)]
    pairs = [pair for pair in zip(*(reversed(shape) for shape in shapes), strict=False) if pair != (1, 1)]
    return bool(pairs) and pairs[0][0] == 1
