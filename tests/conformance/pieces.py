"""Small pieces of networks to reconstruct, with samples: what the suites of the block solvers run over."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, relu

from bitwright.numerics import PER_ROW, PER_TENSOR, Int, MinMax, Spec, quantize
from bitwright.solvers import Activation, Reconstruction, RoundedWeight, Samples

UINT4 = Spec(Int(4, signed=False), PER_TENSOR, zero=Spec(Int(4, signed=False)))
INT3 = Spec(Int(3), PER_ROW)


def rounded(tensor: Tensor, spec: Spec, axis: int = 0) -> RoundedWeight:
    """The weight at its nearest codes under min-max scales."""
    matrix = tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)
    params = None if spec.tile is None else MinMax().fit(spec, matrix)
    return RoundedWeight(tensor, quantize(matrix, spec, params), axis)


def activation(values: Tensor, spec: Spec = UINT4) -> Activation:
    """A point whose range is that of the values."""
    return Activation(spec, MinMax().fit(spec, values.reshape(1, -1)))


def correlated(count: int, cols: int, seed: int) -> Tensor:
    """Inputs [count, cols] strongly correlated, as those of real layers are; one distribution for all seeds."""
    mix = torch.randn(cols, cols, generator=torch.Generator().manual_seed(99))
    mix = mix * torch.logspace(0, -1.5, cols)[:, None]
    return torch.randn(count, cols, generator=torch.Generator().manual_seed(seed)) @ mix


def linear(spec: Spec = INT3, rows: int = 8, cols: int = 32, count: int = 256, seed: int = 0) -> Reconstruction:
    """y = relu(x W' + b), with correlated inputs; the quantized network reads the same."""
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(rows, cols, generator=generator), torch.randn(rows, generator=generator)

    def forward(weights, inputs, quantize):  # type: ignore[no-untyped-def]
        return quantize("y", relu(inputs["x"] @ weights["w"].mT + weights["b"]))

    def samples(seed: int, count: int) -> Samples:
        x = correlated(count, cols, seed)
        return Samples({"x": x}, {"x": x}, relu(x @ weight.mT + bias))

    weights = {"w": rounded(weight, spec)}
    return Reconstruction(forward, weights, samples(seed + 1, count), samples(seed + 2, count // 2), {"b": bias})


def residual(
    spec: Spec = INT3, channels: int = 6, count: int = 48, seed: int = 0, noise: float = 0.05
) -> Reconstruction:
    """Two convolutions around a shortcut, every activation at 4 bits; the quantized network's inputs carry noise."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"first": (channels, channels, 3, 3), "second": (channels, channels, 3, 3)}
    tensors = {name: torch.randn(shape, generator=generator) * 0.15 for name, shape in shapes.items()}
    biases = {f"{name}_bias": torch.randn(channels, generator=generator) * 0.1 for name in shapes}
    seen: dict[str, Tensor] = {}

    def forward(weights, inputs, quantize):  # type: ignore[no-untyped-def]
        x = quantize("x", inputs["x"])
        inner = quantize("inner", relu(conv2d(x, weights["first"], weights["first_bias"], padding=1)))
        return relu(x + conv2d(inner, weights["second"], weights["second_bias"], padding=1))

    def record(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return value

    def samples(count: int) -> Samples:
        x = relu(torch.randn(count, channels, 6, 6, generator=generator))
        drifted = x + noise * torch.randn(x.shape, generator=generator)
        return Samples({"x": x}, {"x": drifted}, forward(tensors | biases, {"x": x}, record))

    weights = {name: rounded(tensor, spec) for name, tensor in tensors.items()}
    learning, held_out = samples(count), samples(count // 2)
    points = {name: activation(value) for name, value in seen.items()}
    return Reconstruction(forward, weights, learning, held_out, biases, points)
