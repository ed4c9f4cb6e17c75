"""The artifact's model with weights that move, and how far its predictions are from the original's.

Gradients go backwards block by block: the streams between blocks are kept, what happens inside a block is computed anew
when its turn comes. So at any time one block's weights and inner values are there as floats, whatever the depth. What
follows the blocks works on every token alone and runs on a few positions at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from bitwright.evaluate.pair import LOGITS
from bitwright.evaluate.side import Rounded
from bitwright.execute import TorchRunner
from bitwright.graph import Graph
from bitwright.solvers.moving import Moving
from bitwright.store.artifact import Artifact, Entry, assembled
from bitwright.store.source import Source


@final
class Student:
    """`weights`: those that move, by name; all others are as the artifact has them.

    It is judged in float32. `short`: products are formed in bfloat16 while it learns; gradients are noisy anyway.
    """

    def __init__(
        self, artifact: Artifact, source: Source, graph: Graph, weights: Mapping[str, Moving], short: bool = False
    ) -> None:
        self.weights, self.short = weights, short
        self._original = TorchRunner(source, graph, torch.float32)
        self._runner = TorchRunner(Rounded(artifact, source, graph, torch.float32), graph, torch.float32)
        for runner in (self._original, self._runner):
            runner.load_outside()
        moving = [entry for entry in artifact.entries if entry.name in weights]
        self._entries: list[list[Entry]] = [[e for e in moving if e.block == i] for i in range(len(graph.blocks))]
        self._blocks = [self._block(artifact, index) for index in range(len(graph.blocks))]

    def learn(self, tokens: Int64[Tensor, "rows length"], wanted: Float[Tensor, "rows length ..."]) -> float:
        """The mean divergence over all tokens; its gradients reach the weights.

        `wanted`: what leaves the original's last block.
        """
        with torch.autocast("cpu", torch.bfloat16, enabled=self.short):
            return self._learn(tokens, wanted)

    def _learn(self, tokens: Tensor, wanted: Tensor) -> float:
        streams = [self._runner.first_stream(tokens)]
        for index in range(len(self._blocks)):
            with torch.no_grad():
                streams.append(self._through(index, streams[-1], tokens, self._drawn(index)))
        last = streams.pop().requires_grad_()
        total = 0.0
        for divergence in self._divergences(tokens, wanted, last):
            (divergence / tokens.numel()).backward()
            total += float(divergence.detach())
        gradient = last.grad
        for index in reversed(range(len(self._blocks))):
            stream = streams.pop().detach().requires_grad_()
            self._through(index, stream, tokens, self._drawn(index)).backward(gradient)
            gradient = stream.grad
        return total / tokens.numel()

    def judge(self, tokens: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
        """The mean divergence over all tokens of these batches, with codes and scales as they would be stored.

        Batches are as `learn` takes them.
        """
        with torch.no_grad():
            streams = [self._runner.first_stream(batch) for batch in tokens]
            for index in range(len(self._blocks)):
                weights = self._parameters(index, {e.name: self._stored(e) for e in self._entries[index]})
                pairs = zip(streams, tokens, strict=True)
                streams = [self._through(index, stream, batch, weights) for stream, batch in pairs]
            sums = [
                float(divergence)
                for batch, behind, stream in zip(tokens, wanted, streams, strict=True)
                for divergence in self._divergences(batch, behind, stream)
            ]
        return sum(sums) / sum(batch.numel() for batch in tokens)

    def _block(self, artifact: Artifact, index: int) -> nn.Module:
        """The block with everything in it that stays; what moves is handed to it whenever it runs."""
        moving = {entry.parameter for entry in self._entries[index]}
        stored = artifact.parameters(index, torch.float32)
        return self._runner.block(index, {name: value for name, value in stored.items() if name not in moving})

    def _drawn(self, index: int) -> dict[str, Tensor]:
        return self._parameters(index, {entry.name: self.weights[entry.name].draw() for entry in self._entries[index]})

    def _stored(self, entry: Entry) -> Tensor:
        return self.weights[entry.name].stored().dequantize()

    def _parameters(self, index: int, matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return assembled(self._entries[index], matrices)

    def _through(self, index: int, stream: Tensor, tokens: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        return self._runner.through(index, self._blocks[index], stream, tokens, weights).float()

    def _divergences(
        self, tokens: Int64[Tensor, "rows length"], wanted: Tensor, stream: Tensor
    ) -> Iterator[Float[Tensor, ""]]:
        """KL(original || student) summed over the tokens of a few positions at a time."""
        words = self._original.logits(tokens[:1, :1], wanted[:1, :1]).shape[-1]
        step = max(1, LOGITS // (len(tokens) * words))
        for start in range(0, tokens.shape[1], step):
            here = slice(start, start + step)
            original = self._original.logits(tokens[:, here], wanted[:, here]).double().log_softmax(-1)
            student = self._runner.logits(tokens[:, here], stream[:, here]).double().log_softmax(-1)
            yield (original.exp() * (original - student)).sum()
