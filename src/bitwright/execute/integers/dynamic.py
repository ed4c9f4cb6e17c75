"""Operators on codes whose scale is found as the network runs: the forms that dynamic quantization is written in.

DynamicQuantizeLinear hands out codes, scale and zero; MatMulInteger and ConvInteger hand out sums in 32 bits, which the
file itself takes back to floats.

Source: the ONNX standard, DynamicQuantizeLinear; ONNX Runtime 1.32, core/util/qmath.h (GetQuantizationParameter).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from bitwright.execute.integers.codes import Codes, Quantizer
from bitwright.execute.integers.products import sums_of, weight_axis
from bitwright.execute.operators.operator import Inputs, need, optional
from bitwright.graph.network import Node

PRODUCTS: Mapping[str, str] = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}
QUANTIZE = "DynamicQuantizeLinear"


def run_dynamic(node: Node, inputs: Inputs, saturates: bool) -> tuple[Tensor, ...]:
    """The outputs of a node of one of these operators."""
    if node.op == QUANTIZE:
        return _quantize(need(node, inputs, 0))
    known = replace(node, op=PRODUCTS[node.op])
    x, weight = need(node, inputs, 0), need(node, inputs, 1)
    one = torch.ones(())
    operands = [
        Codes(codes, one, torch.zeros((), dtype=codes.dtype) if zero is None else zero, axis)
        for codes, zero, axis in (
            (x, optional(inputs, 2), max(0, x.dim() - 2)),
            (weight, optional(inputs, 3), weight_axis(known, weight.dim())),
        )
    ]
    return (sums_of(known, operands[0], operands[1], saturates),)


def _quantize(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unsigned codes over the range of the values, which always has zero in it; then scale and zero."""
    low = values.min().clamp(max=0.0) if values.numel() else torch.zeros(())
    high = values.max().clamp(min=0.0) if values.numel() else torch.zeros(())
    scale = (high - low) / 255.0 if high > low else torch.ones(())
    zero = (-low / scale).clamp(0, 255).round()
    quantizer = Quantizer(scale, int(zero), torch.uint8)
    return quantizer.quantize(values), scale, zero.to(torch.uint8)
