"""Operators that work number by number, and the few that normalise or cast: one function each, in one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from bitwright.execute.operators.operator import NUMBERED, Inputs, Operator, UnsupportedOperator, need, optional
from bitwright.graph.network import Node


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda node, inputs: (function(need(node, inputs, 0)),)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda node, inputs: (function(need(node, inputs, 0), need(node, inputs, 1)),)


def _any_number(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator that takes two or more inputs and combines them pair by pair."""

    def combined(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
        total = need(node, inputs, 0)
        for place in range(1, len(inputs)):
            total = function(total, need(node, inputs, place))
        return (total,)

    return combined


def _with_numbers(function: Callable[..., Tensor], **defaults: float) -> Operator:
    """A function of one tensor and of numbers that are attributes, by name."""

    def applied(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
        numbers = {name: node.attributes.get(name, default) for name, default in defaults.items()}
        return (function(need(node, inputs, 0), **numbers),)

    return applied


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def _modulo(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    a, b = need(node, inputs, 0), need(node, inputs, 1)
    return (torch.fmod(a, b) if node.attributes.get("fmod", 0) else torch.remainder(a, b),)


def _mean(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (_any_number(torch.add)(node, inputs)[0] / len(inputs),)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _selu(x: Tensor, alpha: float, gamma: float) -> Tensor:
    return gamma * (torch.clamp(x, min=0) + torch.clamp(alpha * torch.expm1(torch.clamp(x, max=0)), max=0))


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def _hard_swish(x: Tensor) -> Tensor:
    return x * torch.clamp(x / 6 + 0.5, 0, 1)


def _gelu(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (F.gelu(need(node, inputs, 0), approximate=str(node.attributes.get("approximate", "none"))),)


def _quick_gelu(x: Tensor, alpha: float) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def _clip(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, low, high = need(node, inputs, 0), optional(inputs, 1), optional(inputs, 2)
    is_bounded = low is not None and high is not None and low.numel() == high.numel() == 1 and bool(low <= high)
    if low is not None and high is not None and is_bounded and x.is_floating_point():
        return (F.hardtanh(x, float(low), float(high)),)  # its gradient takes a tenth of the time
    if low is not None:
        x = torch.maximum(x, low)
    return (x if high is None else torch.minimum(x, high),)


def _softmax(function: Callable[..., Tensor]) -> Operator:
    return lambda node, inputs: (function(need(node, inputs, 0), dim=int(node.attributes.get("axis", -1))),)


def _cast(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    number = node.attributes.get("to")
    if number not in NUMBERED:
        raise UnsupportedOperator(node, f"a cast to ONNX type {number}")
    return (need(node, inputs, 0).to(NUMBERED[number]),)


def _cast_like(a: Tensor, b: Tensor) -> Tensor:
    return a.to(b.dtype)


def _where(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (torch.where(need(node, inputs, 0), need(node, inputs, 1), need(node, inputs, 2)),)


def _dropout(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    training = optional(inputs, 2)
    if training is not None and bool(training):
        raise UnsupportedOperator(node, "training mode on")
    x = need(node, inputs, 0)
    return x, torch.ones_like(x, dtype=torch.bool)


def _is_inf(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x = need(node, inputs, 0)
    wanted = torch.zeros_like(x, dtype=torch.bool)
    if node.attributes.get("detect_positive", 1):
        wanted = wanted | (x == math.inf)
    if node.attributes.get("detect_negative", 1):
        wanted = wanted | (x == -math.inf)
    return (wanted,)


ONE_INPUT: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sign": torch.sign,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Mish": F.mish,
    "HardSwish": _hard_swish,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
    "Identity": lambda x: x,
}
TWO_INPUTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divide,
    "Pow": _power,
    "PRelu": _prelu,
    "Equal": torch.eq,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "CastLike": _cast_like,
}
POINTWISE: Mapping[str, Operator] = {
    **{name: _unary(function) for name, function in ONE_INPUT.items()},
    **{name: _binary(function) for name, function in TWO_INPUTS.items()},
    "Max": _any_number(torch.maximum),
    "Min": _any_number(torch.minimum),
    "Sum": _any_number(torch.add),
    "Mean": _mean,
    "Mod": _modulo,
    "LeakyRelu": _with_numbers(lambda x, alpha: F.leaky_relu(x, alpha), alpha=0.01),
    "Elu": _with_numbers(lambda x, alpha: F.elu(x, alpha), alpha=1.0),
    "Celu": _with_numbers(lambda x, alpha: F.celu(x, alpha), alpha=1.0),
    "Selu": _with_numbers(_selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "ThresholdedRelu": _with_numbers(lambda x, alpha: torch.where(x > alpha, x, 0), alpha=1.0),
    "HardSigmoid": _with_numbers(_hard_sigmoid, alpha=0.2, beta=0.5),
    "Swish": _with_numbers(_quick_gelu, alpha=1.0),
    "Clip": _clip,
    "Gelu": _gelu,
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "Cast": _cast,
    "Where": _where,
    "Dropout": _dropout,
    "IsInf": _is_inf,
}
# Operators that engines add to the standard, which exporters write; the attributes are those of the engine.
MICROSOFT: Mapping[str, Operator] = {
    "Gelu": _unary(F.gelu),
    "FastGelu": _unary(lambda x: F.gelu(x, approximate="tanh")),
    "QuickGelu": _with_numbers(_quick_gelu, alpha=1.702),
}
