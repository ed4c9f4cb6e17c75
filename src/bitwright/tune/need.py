"""What tuning needs, known before it begins."""

from __future__ import annotations

from math import prod

from bitwright.evaluate.pair import LOGITS
from bitwright.store.artifact import Artifact
from bitwright.store.batches import Batches
from bitwright.store.source import Source
from bitwright.tune.learner import Tuning

_MOVING = 5  # numbers for every weight that moves: where it began, its move, the gradient, two averages of it
_DRAWN = 6  # numbers for every weight of the largest block while gradients go through it
_INNER = 12  # numbers that a block holds for its gradients, for every token and every output of its weights
_LOGITS = 16  # arrays of logits of both models at a time
_JUDGED = 3  # streams of the rows that judge
_PROCESS = 400 << 20  # the libraries


def needed_bytes(artifact: Artifact, source: Source, batches: Batches, tuning: Tuning = Tuning()) -> int:
    """Bytes of memory at most, about; what only the disk holds is not counted."""
    entries = artifact.entries
    moving = sum(prod(entry.shape) for entry in entries)
    every = sum(shape.elements for shape in source.parameters().values())
    length = batches.rows.shape[1]
    tokens = max(1, tuning.tokens // length) * length
    blocks = {entry.block for entry in entries}
    wide = [sum(prod(entry.shape) for entry in entries if entry.block == block) for block in blocks]
    outputs = [sum(entry.shape[0] for entry in entries if entry.block == block) for block in blocks]
    channels = min((entry.shape[1] for entry in entries), default=0)  # of the stream, which some weight always reads
    streams = (tokens * (len(blocks) + 2) + _JUDGED * batches.held_out * length) * channels
    inner = _DRAWN * max(wide, default=0) + _INNER * tokens * max(outputs, default=0)
    kept = 2 * (every - moving)  # of the original and of the artifact
    words = max(shape.shape[0] for shape in source.parameters().values() if shape.shape)  # at least
    logits = _LOGITS * min(LOGITS, tokens * words)
    return 4 * (_MOVING * moving + kept + inner + streams + logits) + _PROCESS
