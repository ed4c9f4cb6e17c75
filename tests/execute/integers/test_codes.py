"""Codes and what they stand for; rounding is half to even, one number at a time."""

from __future__ import annotations

import torch

from bitwright.execute.integers.codes import Codes, Quantizer
from execute.integers.scalar import F, half_even


def test_values_are_codes_less_zero_times_scale() -> None:
    codes = Codes(
        torch.tensor([[1, 200], [3, 4]], dtype=torch.uint8), torch.tensor([0.5, 2.0]), torch.tensor([1, 3]), 0
    )
    assert codes.dequantize().tolist() == [[0.0, 99.5], [0.0, 2.0]]
    assert not codes.is_per_tensor


def test_a_bias_of_32_bits_is_rounded_to_float32_once() -> None:
    held = Codes(torch.tensor([2**24 + 1, -5], dtype=torch.int32), torch.tensor(0.5), torch.zeros(1, dtype=torch.int32))
    assert held.dequantize().tolist() == [2.0**23, -2.5]


def test_quantizing_divides_and_rounds_half_to_even() -> None:
    out = Quantizer(torch.tensor(0.3), 100, torch.uint8)
    values = torch.randn(500, generator=torch.Generator().manual_seed(1)) * 30
    wanted = [min(max(half_even(F(value) / F(0.3)) + 100, 0), 255) for value in values.numpy()]
    assert out.quantize(values).tolist() == wanted
    assert out.rounded(torch.tensor([0.5, 1.5, -0.5, -1.5, 1e9, -1e9])).tolist() == [100, 102, 100, 98, 255, 0]


def test_moving_signed_codes_up_keeps_their_values() -> None:
    signed = Codes(torch.arange(-128, 128).to(torch.int8), torch.tensor(0.1), torch.tensor(-7, dtype=torch.int8))
    assert torch.equal(signed.moved(128).dequantize(), signed.dequantize())
