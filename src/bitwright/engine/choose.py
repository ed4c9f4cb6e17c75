"""Decides on held-out rows: of several versions of a stage, which makes the block's output best.

The error is the squared distance of the quantized stream from the original one behind the block, token by token
relative to the original's energy. A few tokens carry activations hundreds of times larger than all others; relative to
their own size they count like any token, which is also how the normalisation that follows sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitwright.engine.collect import Pair, Pass
from bitwright.execute import StreamFile
from bitwright.graph import WeightView
from bitwright.numerics import QTensor, row_ranges

_DECIDING_TOKENS = 2048  # held-out tokens that decisions are made on; with four times as many models came out the same


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
        """The same on the first batches of the rows only: enough to decide by."""
        if not self.ranges:
            return self._error(block, [])
        count = max(1, _DECIDING_TOKENS // (self.behind.shape[1] * max(1, self.ranges[0][1] - self.ranges[0][0])))
        return self._error(block, self.ranges[:count])

    def _error(self, block: Pass, ranges: list[tuple[int, int]]) -> float:
        total, tokens, kind = 0.0, 0, block.runner.graph.stream
        for start, stop in ranges:
            output = kind.main(block.output(self.before.quantized, start, stop)).float()
            wanted = kind.main(self.behind.read(start, stop)).float()
            total += float(relative_error(output, wanted).sum(dtype=torch.float64))
            tokens += output.shape[0] * output.shape[1]
        error = total / max(1, tokens)
        return error if error == error else float("inf")


def relative_error(output: Tensor, wanted: Tensor) -> Tensor:
    """|output - wanted|^2 / |wanted|^2 of every token [rows, length]."""
    energy = _energy(wanted)
    return _energy(output - wanted) / energy.clamp(min=1e-30)


def _energy(values: Tensor) -> Tensor:
    """Squared length of every token, float64: the square of a float32 activation may exceed its range."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(2), dim=-1, dtype=torch.float64)
    return norms.square()


class Writer:
    """Puts matrices into the parameters of a block, in place, some rows at a time."""

    def __init__(self, module: nn.Module, prefix: str) -> None:
        self._module, self._prefix = module, prefix + "."

    def put(self, view: WeightView, matrix: Tensor, start: int = 0) -> None:
        """Write rows from `start` on."""
        with torch.no_grad():
            parameter = self._module.get_parameter(view.parameter.removeprefix(self._prefix))
            view.read(parameter)[start : start + len(matrix)].copy_(matrix)

    def put_qtensor(self, view: WeightView, qtensor: QTensor) -> None:
        """Write what a quantized tensor stands for."""
        for start, stop in row_ranges(qtensor.spec, qtensor.shape):
            self.put(view, qtensor.rows(start, stop).dequantize(), start)
