"""Decides on held-out rows: of several versions of a stage, which makes the block's output best.

The error is the squared distance of the quantized stream from the original one behind the block, token by token
relative to the original's energy. A few tokens carry activations hundreds of times larger than all others; relative to
their own size they count like any token, which is also how the normalisation that follows sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitwright.engine.collect import Pair, Pass
from bitwright.execute import StreamFile
from bitwright.graph import WeightView


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The held-out rows: streams before the block, the original stream behind it, and the batches to take."""

    before: Pair
    behind: StreamFile
    ranges: list[tuple[int, int]]

    def error(self, block: Pass) -> float:
        """Mean over tokens of |y^ - y|^2 / |y|^2 for the quantized block as it is now; inf where it is not finite."""
        return self._error(block, self.ranges)

    def deciding_error(self, block: Pass) -> float:
        """The same on the first batches of the rows only, some 8000 tokens: enough to decide by."""
        return self._error(block, self.ranges[:2])

    def _error(self, block: Pass, ranges: list[tuple[int, int]]) -> float:
        total, tokens = 0.0, 0
        for start, stop in ranges:
            block.runner.note_calls(stop - start, self.behind.shape[1])
            output = block.runner.run(block.index, block.quantized, self.before.quantized.read(start, stop)).float()
            total += float(relative_error(output, self.behind.read(start, stop).float()).sum(dtype=torch.float64))
            tokens += output.shape[0] * output.shape[1]
        error = total / max(1, tokens)
        return error if error == error else float("inf")


def relative_error(output: Tensor, wanted: Tensor) -> Tensor:
    """|output - wanted|^2 / |wanted|^2 of every token [rows, length]."""
    energy = wanted.square().sum(-1)
    return (output - wanted).square().sum(-1) / energy.clamp(min=1e-30)


def put_weights(module: nn.Module, prefix: str, weights: Mapping[WeightView, Tensor]) -> None:
    """Write matrices into the parameters that hold them, in place."""
    with torch.no_grad():
        for view, matrix in weights.items():
            parameter = module.get_parameter(view.parameter.removeprefix(prefix + "."))
            view.read(parameter).copy_(matrix)
