"""Slow, obvious decoders and roundings, written from the specifications alone; tests hold the library against them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitwright.numerics import E2M1, Float, Float8, Float8Kind, Format, Grid, Int, PowerOfTwo, QTensor


def minifloat(code: int, exponent_bits: int, fraction_bits: int, bias: int) -> float:
    """The number behind the bits sign | exponent | fraction of an IEEE-like float without special codes."""
    sign = -1.0 if code >> (exponent_bits + fraction_bits) else 1.0
    exponent = (code >> fraction_bits) & ((1 << exponent_bits) - 1)
    fraction = (code & ((1 << fraction_bits) - 1)) / (1 << fraction_bits)
    if exponent == 0:
        return float(sign * fraction * 2.0 ** (1 - bias))
    return float(sign * (1 + fraction) * 2.0 ** (exponent - bias))


def e4m3(code: int) -> float:
    """OCP FP8 E4M3: no infinities, one NaN per sign."""
    return math.nan if code & 0x7F == 0x7F else minifloat(code, 4, 3, 7)


def e5m2(code: int) -> float:
    """OCP FP8 E5M2: infinities and NaNs where all exponent bits are set."""
    if code & 0x7C == 0x7C:
        return math.nan if code & 3 else math.copysign(math.inf, -1.0 if code & 0x80 else 1.0)
    return minifloat(code, 5, 2, 15)


def decode_one(form: Format, code: float) -> float:
    """The number that one code stands for."""
    match form:
        case Float8(Float8Kind.E4M3FN):
            return e4m3(int(code))
        case Float8(Float8Kind.E5M2):
            return e5m2(int(code))
        case E2M1():
            return minifloat(int(code), 2, 1, 1)
        case PowerOfTwo():
            return float(2.0 ** (int(code) - 127))
        case Grid(points):
            return points[int(code)]
        case Int() | Float():
            return float(code)
    raise AssertionError(f"no reference decoder for {form}")


def dequantize(qtensor: QTensor) -> Tensor:
    """value = (code - zero) * scale, one element at a time, float64."""
    rows, cols = qtensor.shape
    scale = None if qtensor.scale is None else dequantize(qtensor.scale)
    zero = None if qtensor.zero is None else dequantize(qtensor.zero)
    out = torch.empty(rows, cols, dtype=torch.float64)
    for i in range(rows):
        for j in range(cols):
            value = decode_one(qtensor.spec.format, qtensor.codes[i, j].item())
            if scale is not None:
                tile = qtensor.spec.tile
                assert tile is not None
                a = 0 if tile.rows is None else i // tile.rows
                b = 0 if tile.cols is None else j // tile.cols
                value = (value - (0.0 if zero is None else zero[a, b].item())) * scale[a, b].item()
            out[i, j] = value
    return out


def nearest(values: Tensor, wanted: Tensor) -> Tensor:
    """The nearest of `values` to each number, float64, by looking at all of them (of two equally near: the lower)."""
    values, wanted = values.double(), wanted.double().clamp(float(values.min()), float(values.max()))
    return values[(wanted[..., None] - values).abs().argmin(-1)]
