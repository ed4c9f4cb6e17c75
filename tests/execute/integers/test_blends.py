"""Sums, products and means of codes against the same formulas, one number at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.execute.integers.blends import blended
from bitwright.execute.integers.codes import Codes, Quantizer
from bitwright.graph.network import Node
from bitwright.numerics import Scaling
from execute.integers.scalar import F, by_shift, half_even, requantized


def operand(seed: int, shape: tuple[int, ...], scale: float, zero: int, dtype: torch.dtype = torch.uint8) -> Codes:
    limits = torch.iinfo(dtype)
    draws = torch.Generator().manual_seed(seed)
    drawn = torch.randint(limits.min, limits.max + 1, shape, generator=draws)
    return Codes(drawn.to(dtype), torch.tensor(scale), torch.tensor(zero).to(dtype))


def node(op: str, **attributes: object) -> Node:
    return Node("n", op, ("a", "b"), ("c",), attributes)


def fused(a: object, b: object, c: object) -> np.float32:
    """a * b + c in float32, rounded once: products of two float32 are exact in float64."""
    return F(np.float64(a) * np.float64(b) + np.float64(c))


@pytest.mark.parametrize("seed", range(3))
def test_a_sum_on_x86_is_two_fused_steps_from_one_constant(seed: int) -> None:
    a, b = operand(seed, (40, 50), 0.021, 17), operand(seed + 9, (40, 50), 0.034, 200)
    out = Quantizer(torch.tensor(0.041), 90, torch.uint8)
    found = blended(node("Add"), [a, b], out, Scaling.MULTIPLY)
    first, second = F(0.021) / F(0.041), F(0.034) / F(0.041)
    start = F(90) - fused(first, 17, second * F(200))
    for p, q, code in zip(a.codes.flatten(), b.codes.flatten(), found.flatten(), strict=True):
        steps = fused(first, int(p), fused(second, int(q), start))
        assert int(code) == min(max(half_even(steps), 0), 255)


@pytest.mark.parametrize(("first", "second"), [(0.02, 0.03), (0.5, 0.004), (1.0, 1.0)])
def test_a_sum_on_arm_is_integer_multipliers_and_a_shift(first: float, second: float) -> None:
    a, b = (operand(i, (30, 30), scale, zero, torch.int8) for i, (scale, zero) in enumerate([(first, -5), (second, 9)]))
    out = Quantizer(torch.tensor(0.05), 3, torch.int8)
    found = blended(node("Add"), [a, b], out, Scaling.SHIFT)
    ratios = [float(F(scale) / F(0.05)) for scale in (first, second)]
    shift = 21 - int(np.floor(np.log2(max(ratios))))
    numbers = [round(ratio * 2**shift) for ratio in ratios]
    for p, q, code in zip(a.codes.flatten(), b.codes.flatten(), found.flatten(), strict=True):
        total = (int(p) + 5) * numbers[0] + (int(q) - 9) * numbers[1]
        assert int(code) == min(max(by_shift(total, shift) + 3, -128), 127)


def test_halves_go_away_from_zero_on_arm_and_to_even_on_x86() -> None:
    out = Quantizer(torch.tensor(2.0), 0, torch.int8)
    values = torch.tensor([-7, -5, -3, -1, 1, 3, 5, 7], dtype=torch.int8)
    a, b = (Codes(codes, torch.tensor(1.0), torch.tensor(0, dtype=torch.int8)) for codes in (values, values * 0))
    assert blended(node("Add"), [a, b], out, Scaling.SHIFT).tolist() == [-4, -3, -2, -1, 1, 2, 3, 4]
    assert blended(node("Add"), [a, b], out, Scaling.MULTIPLY).tolist() == [-4, -2, -2, 0, 0, 2, 2, 4]


def test_a_product_is_one_factor() -> None:
    a, b = operand(1, (20, 20), 0.03, 40), operand(2, (20, 20), 0.05, 7)
    out = Quantizer(torch.tensor(0.2), 100, torch.uint8)
    factor = F(F(0.03) * F(0.05)) / F(0.2)
    found = blended(node("Mul"), [a, b], out, Scaling.MULTIPLY)
    for p, q, code in zip(a.codes.flatten(), b.codes.flatten(), found.flatten(), strict=True):
        steps = F(F((int(p) - 40) * (int(q) - 7)) * factor) + F(100)
        assert int(code) == min(max(half_even(steps), 0), 255)


@pytest.mark.parametrize("scaling", [Scaling.MULTIPLY, Scaling.SHIFT])
def test_a_mean_over_all_space_is_the_sum_of_codes_scaled(scaling: Scaling) -> None:
    x, out = operand(3, (2, 9, 5, 7), 0.11, 31), Quantizer(torch.tensor(0.04), 12, torch.uint8)
    found = blended(node("GlobalAveragePool"), [x], out, scaling).flatten(1)
    factor = F(0.11) / F(F(0.04) * F(35))
    mantissa, exponent = np.frexp(factor)
    for picture, row in zip(x.codes, found, strict=True):
        for channel, code in zip(picture, row, strict=True):
            total = sum(int(number) - 31 for number in channel.flatten())
            by_float = requantized(total, factor, 12, 0, 255)
            by_whole = by_shift(total * int(float(mantissa) * 2**24), 24 - int(exponent)) + 12
            assert int(code) == (by_float if scaling is Scaling.MULTIPLY else min(max(by_whole, 0), 255))


@pytest.mark.parametrize("counts_padding", [0, 1])
def test_a_mean_over_a_window_adds_up_in_order(counts_padding: int) -> None:
    x, out = operand(4, (1, 2, 5, 5), 0.13, 60), Quantizer(torch.tensor(0.09), 80, torch.uint8)
    pool = node("AveragePool", kernel_shape=(3, 2), pads=(1, 0, 1, 0), strides=(2, 1), count_include_pad=counts_padding)
    found = blended(pool, [x], out, Scaling.MULTIPLY)[0]
    for channel, i, j in np.ndindex(2, 3, 4):
        read = [(2 * i + r - 1, j + c) for r in range(3) for c in range(2)]
        inside = [(y, z) for y, z in read if 0 <= y < 5]
        total = F(0)
        for y, z in inside:
            total = total + F(0.13) * F(int(x.codes[0, channel, y, z]) - 60)
        steps = total / F(6 if counts_padding else len(inside)) / F(0.09) + F(80)
        assert int(found[channel, i, j]) == min(max(half_even(steps), 0), 255)
