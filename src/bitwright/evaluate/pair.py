"""The original and the artifact over the same windows: through the blocks one by one, then through both heads.

The heads are where a large vocabulary costs memory: one window of 2048 tokens over 150,000 words is over a gigabyte of
logits. What follows the blocks (a norm, the head) works on every token alone, so it runs on a few positions at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.evaluate.error import EvaluateError
from bitwright.evaluate.side import Side
from bitwright.evaluate.tokens import Tokens, compare_logits
from bitwright.evaluate.windows import Batch, Windows

LOGITS = 1 << 22  # of each model at a time; a float64 copy of them is 32 MiB


@final
@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two models, the windows they run over, and in which batches."""

    original: Side
    rounded: Side
    windows: Windows
    batches: list[Batch]

    def embed(self) -> None:
        """Run what comes before the blocks; OSError if the disk has no room for the activations."""
        for side in (self.original, self.rounded):
            side.embed(self.batches)

    def advance(self, index: int) -> None:
        """Run block `index`, of one model and then of the other."""
        for side in (self.original, self.rounded):
            side.advance(index, self.batches)

    def tokens(self, on_batch: Callable[[int], None]) -> Tokens:
        """What every predicted token shows, once all blocks have run; EvaluateError where logits are not finite."""
        for side in (self.original, self.rounded):
            side.runner.load_outside()
        parts = []
        for number, batch in enumerate(self.batches, start=1):
            parts.append(torch.cat(list(self._compare(batch)), dim=-1).flatten(1))
            on_batch(number)
        return Tokens(*torch.cat(parts, dim=1))

    def _compare(self, batch: Batch) -> Iterator[Float[Tensor, "4 rows positions"]]:
        """The measures of a batch, a few positions at a time; the last position of a window predicts nothing."""
        tokens = self.windows.tokens(batch)
        streams = self.original.read(batch), self.rounded.read(batch)
        words = self.original.runner.logits(tokens[:1, :1], streams[0][:1, :1]).shape[-1]
        step = max(1, LOGITS // (len(tokens) * words))
        for start in range(0, batch.length - 1, step):
            here = slice(start, min(start + step, batch.length - 1))
            original = self.original.runner.logits(tokens[:, here], streams[0][:, here])
            rounded = self.rounded.runner.logits(tokens[:, here], streams[1][:, here])
            _check_finite(self.original.name, original, batch)
            _check_finite(self.rounded.name, rounded, batch)
            yield compare_logits(original, rounded, tokens[:, here.start + 1 : here.stop + 1])


def _check_finite(name: str, logits: Float[Tensor, "rows positions words"], batch: Batch) -> None:
    bad = ~torch.isfinite(logits).flatten(1).all(1)
    if bool(bad.any()):
        raise EvaluateError(
            f"window {batch.start + int(bad.nonzero()[0])} of the text: {name}'s logits are not finite; if it "
            f"overflows in {str(logits.dtype).removeprefix('torch.')}, compute in float32"
        )
