"""One of the two models, run over all windows with one block in memory at a time.

Between two blocks the activations lie in a file, which every block overwrites in place: an evaluation that is killed
starts again, so nothing else is kept. The artifact's weights come through the same few methods as the source's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from bitwright.evaluate.error import EvaluateError
from bitwright.evaluate.windows import Batch, Windows
from bitwright.execute import StreamFile, TorchRunner, short_factors
from bitwright.execute.torch_runner import Weights
from bitwright.graph import Graph
from bitwright.store.artifact import Artifact
from bitwright.store.source import Source


@final
@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """An artifact's weights under the source's names, dequantized to `dtype` as they are read."""

    artifact: Artifact
    source: Source
    graph: Graph
    dtype: torch.dtype

    def skeleton(self) -> nn.Module:
        """The source's model without weights."""
        return self.source.skeleton()

    def parameters(self) -> Mapping[str, object]:
        """The names that can be read."""
        return self.source.parameters()

    def tied(self) -> Mapping[str, str]:
        """Alias -> the name that is stored."""
        return self.source.tied()

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """These parameters; EvaluateError if the artifact lacks one."""
        wanted = set(names)
        found: dict[str, Tensor] = {}
        for part in {self._part(name) for name in wanted}:
            stored = self.artifact.parameters(part, self.dtype)
            found |= {name: stored[name] for name in wanted & stored.keys()}
        if lacking := sorted(wanted - found.keys()):
            raise EvaluateError(f"{self.artifact.path} lacks {', '.join(lacking)}; quantize the model again")
        return found

    def _part(self, name: str) -> int | None:
        """The block that a parameter belongs to."""
        return next((i for i, block in enumerate(self.graph.blocks) if name.startswith(block.name + ".")), None)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """A model called `name` in messages; `stream` holds its activations behind the last block that has run."""

    name: str
    weights: Weights
    runner: TorchRunner
    stream: StreamFile
    windows: Windows

    @staticmethod
    def open(weights: Weights, runner: TorchRunner, windows: Windows, path: Path) -> Side:
        """The model with nothing run yet, and with what lies outside its blocks in memory; called as `path` is."""
        runner.load_outside()
        sample = runner.first_stream(windows.rows[:1, :1])
        stream = StreamFile(path, (*windows.rows.shape, *sample.shape[2:]), sample.dtype)
        return Side(path.name, weights, runner, stream, windows)

    def embed(self, batches: list[Batch]) -> None:
        """Run what comes before the blocks, and give its memory back; OSError if the disk has no room."""
        self.stream.create()
        for batch in batches:
            self._write(batch, self.runner.first_stream(self.windows.tokens(batch)))
        self.runner.drop_outside()

    def advance(self, index: int, batches: list[Batch]) -> None:
        """Run block `index` over all windows."""
        prefix = self.runner.graph.blocks[index].name + "."
        stored = self.weights.read(name for name in self.weights.parameters() if name.startswith(prefix))
        module = self.runner.block(index, stored)
        with short_factors():
            for batch in batches:
                tokens = self.windows.tokens(batch)
                self._write(batch, self.runner.run(index, module, self.read(batch), tokens))

    def read(self, batch: Batch) -> Float[Tensor, "rows tokens ..."]:
        """The activations of a batch."""
        return self.stream.read(batch.start, batch.stop)[:, : batch.length]

    def _write(self, batch: Batch, stream: Float[Tensor, "rows tokens ..."]) -> None:
        behind = (0, 0) * (stream.dim() - 2) + (0, self.stream.shape[1] - batch.length)
        self.stream.write(batch.start, pad(stream, behind))
