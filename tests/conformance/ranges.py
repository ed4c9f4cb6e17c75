"""Range rules, activation specs and kinds of activations that the suites run over. A new rule is one line here."""

from __future__ import annotations

import torch

from bitwright.calib import (
    Auto,
    Entropy,
    Histogram,
    LeastEffect,
    MeanMinMax,
    MeanSquaredError,
    MinMaxRange,
    MovingAverage,
    Octav,
    Percentile,
    RangeRule,
)
from bitwright.numerics import PER_TENSOR, Float8, Int, Spec

RULES: dict[str, RangeRule] = {
    "minmax": MinMaxRange(),
    "mean_minmax": MeanMinMax(),
    "moving_average": MovingAverage(),
    "percentile": Percentile(),
    "percentile_low": Percentile(99.0),
    "entropy": Entropy(),
    "mse": MeanSquaredError(),
    "octav": Octav(),
    "auto": Auto(),
    "least_effect": LeastEffect(),
}


def asymmetric(bits: int, signed: bool = False) -> Spec:
    return Spec(Int(bits, signed), PER_TENSOR, zero=Spec(Int(bits, signed)))


ACTIVATIONS: dict[str, Spec] = {
    "uint8": asymmetric(8),
    "int8_zero": asymmetric(8, signed=True),
    "int8": Spec(Int(8), PER_TENSOR),
    "uint8_no_zero": Spec(Int(8, signed=False), PER_TENSOR),
    "uint4": asymmetric(4),
    "int4": Spec(Int(4), PER_TENSOR),
    "uint2": asymmetric(2),
}
FLOATS: dict[str, Spec] = {"fp8": Spec(Float8(), PER_TENSOR)}


def values_of(kind: str, samples: int = 8, size: int = 2500) -> torch.Tensor:
    """Activations [samples, size], float32."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(samples, size, generator=generator)
    match kind:
        case "normal":
            return x
        case "rectified":
            return x.relu()
        case "negative":
            return -x.abs()
        case "swish":
            return torch.nn.functional.silu(3 * x)
        case "clipped":
            return (4 * x).clamp(0, 6)
        case "outlier":
            x[3, 7], x[5, 1] = -400.0, 90.0
            return x
        case "shifted":
            return x * 0.01 + 5
        case "pixels":
            return torch.randint(0, 256, (samples, size), generator=generator).float()
        case "constant":
            return torch.full((samples, size), 2.5)
        case "zeros":
            return torch.zeros(samples, size)
        case "tiny":
            return x * 1e-41
        case "huge":
            return x * 1e37
    raise AssertionError(kind)


VALUES = [
    "normal",
    "rectified",
    "negative",
    "swish",
    "clipped",
    "outlier",
    "shifted",
    "pixels",
    "constant",
    "zeros",
    "tiny",
    "huge",
]


def seen(values: torch.Tensor) -> Histogram:
    """The histogram of values [samples, ...]."""
    histogram = Histogram()
    histogram.add(values, 0)
    return histogram


def gaussian(count: int = 1_000_000) -> Histogram:
    """A standard normal distribution without sampling noise: its quantiles at equal steps."""
    parts = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return seen(torch.special.ndtri(parts)[None])
