"""A quantized network as it is stored: the float graph, the codes of its weights, and the scales of its activations.

The graph is float and complete, biases corrected; codes and scales lie beside it. A weight's matrix has one row per
output channel: the slices of the tensor along `axis`. A bias has no codes of its own: engines add it to the sums of
integer products, so its step is the product of the steps of the input and of the weight (`bias_codes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Int32, Shaped
from torch import Tensor

from bitwright.graph.linear_node import linear_of
from bitwright.numerics import Int, Params, QTensor, Spec
from bitwright.store.onnx_source import OnnxSource

LARGEST = 2**31 - 1


@final
@dataclass(frozen=True, slots=True, eq=False)
class StoredWeight:
    """A constant in codes. `nodes`: those that multiply with it or pick rows; other readers keep the float constant."""

    name: str
    axis: int
    shape: tuple[int, ...]
    qtensor: QTensor
    nodes: tuple[str, ...]

    def shaped(self, matrix: Shaped[Tensor, "out in"]) -> Shaped[Tensor, "..."]:
        """A matrix of that kind (codes, values) in the shape of the constant."""
        moved = list(self.shape)
        moved.insert(0, moved.pop(self.axis))
        return matrix.reshape(moved).movedim(0, self.axis).contiguous()

    def dequantize(self) -> Float[Tensor, "..."]:
        """The constant that the codes stand for."""
        return self.shaped(self.qtensor.dequantize())

    @property
    def is_integer(self) -> bool:
        """Whether its codes are integers, as those of the bias behind it then are."""
        return isinstance(self.qtensor.spec.format, Int)

    @property
    def scale(self) -> Float[Tensor, "tiles"]:
        """The step of each row, or the one step of all."""
        params = self.qtensor.params
        assert params is not None
        return params.scale.reshape(-1)


@final
@dataclass(frozen=True, slots=True, eq=False)
class StoredPoint:
    """A value that passes through codes; `readers` None: for everything that reads it.

    `low`, `high` and `params` are None where they are found anew whenever the network runs.
    """

    value: str
    spec: Spec
    group: str
    readers: tuple[str, ...] | None
    low: float | None = None
    high: float | None = None
    params: Params | None = None

    @property
    def is_dynamic(self) -> bool:
        """Whether its range is found when the network runs."""
        return self.params is None

    @property
    def scale(self) -> float:
        """The step of a static point."""
        assert self.params is not None
        return float(self.params.scale)

    @property
    def zero(self) -> int:
        """The code of 0.0 of a static point."""
        assert self.params is not None
        return 0 if self.params.zero is None else int(self.params.zero)


@final
@dataclass(frozen=True, slots=True, eq=False)
class QuantizedNetwork:
    """The float graph with weights and points by name, and the names of the nodes that run in integers.

    `engine`: the one that it is for; "" where that is not known.
    """

    source: OnnxSource
    weights: Mapping[str, StoredWeight]
    points: Mapping[str, StoredPoint]
    integer: frozenset[str]
    engine: str = ""

    @property
    def folder(self) -> Path:
        """The folder of its artifact, where the float graph lies."""
        return self.source.path.parent

    def biased(self) -> dict[str, tuple[str, Float[Tensor, "channels"]]]:
        """By node in integers that has a bias: the name of the bias, and the step of each of its channels.

        Only with static activations: a step that is found as the network runs leaves the bias in float.
        """
        found = {}
        for node in self.source.network().nodes:
            if node.name not in self.integer or len(node.inputs) < 3 or not node.inputs[2]:
                continue
            if linear_of(self.source.network(), node) is None:
                continue
            weight, point = self.weights.get(node.inputs[1]), self.points.get(node.inputs[0])
            if weight is not None and point is not None and point.params is not None and weight.is_integer:
                steps = bias_steps(point.params.scale, weight.scale)
                groups = int(node.attributes.get("group", 1)) if node.op == "ConvTranspose" else 1
                found[node.name] = (node.inputs[2], steps.repeat(groups) if steps.numel() > 1 else steps)
        return found


def bias_steps(activation: Float[Tensor, "1 1"], weight: Float[Tensor, "tiles"]) -> Float[Tensor, "tiles"]:
    """The step of a bias: that of the input times that of the weight, in float32 as engines multiply them."""
    return activation.reshape(()) * weight


def bias_codes(bias: Float[Tensor, "numbers"], steps: Float[Tensor, "tiles"]) -> Int32[Tensor, "channels"]:
    """The bias as whole steps, rounded to nearest even and clamped to 32 bits; a single number is every channel's."""
    codes = (bias.double() / steps.double()).round().clamp(-LARGEST, LARGEST)
    return codes.to(torch.int32)
