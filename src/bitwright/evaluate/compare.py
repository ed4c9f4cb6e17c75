"""The original model and the artifact on one held-out text, in the memory of one block whatever the model's size.

Both models run block by block over all windows of the text: block i of the original, block i of the artifact, with the
activations between blocks in two files. Behind the last block both heads run, and every predicted token leaves four
numbers, of which all figures are made (see `tokens.py`). In memory at any time: one block, or else both models'
embeddings and heads; the attention masks of one batch; the four numbers per token.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from bitwright.evaluate.bootstrap import intervals
from bitwright.evaluate.error import EvaluateError
from bitwright.evaluate.pair import Pair
from bitwright.evaluate.scores import Scores
from bitwright.evaluate.side import Rounded, Side
from bitwright.evaluate.tokens import Summary
from bitwright.evaluate.weigh import Weighed, weigh
from bitwright.evaluate.windows import cut
from bitwright.execute import TorchRunner
from bitwright.execute.torch_runner import Weights
from bitwright.graph import trace
from bitwright.store.artifact import Artifact
from bitwright.store.source import Source

SMALL = 1_000_000_000  # a model of fewer parameters is compared in float32, whatever it is stored in
POSITIONS = "max_position_embeddings"


@final
@dataclass(frozen=True, slots=True)
class Setting:
    """How to compare.

    `length`: tokens per window; None: the model's positions, at most 2048. `workdir`: where the activations go, two
    files of tokens x channels; None: the system's folder for temporary files. `compute`: the float type both models
    run in; None: float32 below a billion parameters, else the source's. `tokens`: how many run at a time.
    """

    length: int | None = None
    workdir: Path | None = None
    compute: torch.dtype | None = None
    tokens: int = 4096


@final
@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` steps of a stage ("blocks" or "logits") are finished."""

    stage: str
    done: int
    total: int


def ignore(progress: Progress) -> None:
    """The callback that does nothing."""


def evaluate(
    artifact: Artifact,
    against: Source,
    text: str,
    length: int | None = None,
    workdir: Path | None = None,
    on_progress: Callable[[Progress], None] = ignore,
) -> Scores:
    """The scores of an artifact against the source it was made from; `measure` is the same with more settings."""
    return measure(artifact, against, text, Setting(length, workdir), on_progress)


def measure(
    artifact: Artifact,
    against: Source,
    text: str,
    setting: Setting = Setting(),
    on_progress: Callable[[Progress], None] = ignore,
) -> Scores:
    """The scores of an artifact against the source it was made from, on a text; hashes the source first.

    Raises EvaluateError for another source, logits that are not finite and a full disk; TextError for a text that is
    empty or too short and for a length that the model cannot take.
    """
    check_source(artifact, against)
    skeleton = against.skeleton()
    windows = cut(text, against.tokenizer(), positions(skeleton), setting.length)
    compute = setting.compute or default_compute(against)
    if setting.workdir is not None:
        setting.workdir.mkdir(parents=True, exist_ok=True)
    graph = trace(skeleton)
    with tempfile.TemporaryDirectory(prefix="bitwright-", dir=setting.workdir) as folder:

        def side(name: str, weights: Weights) -> Side:
            return Side.open(weights, TorchRunner(weights, graph, compute), windows, Path(folder) / name)

        both = side("original", against), side("artifact", Rounded(artifact, against, graph, compute))
        pair = Pair(*both, windows, windows.batches(setting.tokens))
        weighed = _run_blocks(pair, artifact, against, on_progress)
        tokens = pair.tokens(lambda done: on_progress(Progress("logits", done, len(pair.batches))))
    summary = Summary(tokens, windows.predicted)
    return Scores(
        **asdict(summary.figures(torch.ones(summary.windows, dtype=torch.int64))),
        **_sizes(artifact, against, weighed),
        intervals=intervals(summary),
        tokens=int(windows.predicted.sum()),
        windows=summary.windows,
        length=windows.rows.shape[1],
        text=windows.digest,
        compute=str(compute).removeprefix("torch."),
    )


def positions(skeleton: nn.Module) -> int | None:
    """How many tokens the model takes, as its configuration says; None: it does not say."""
    config: Any = skeleton.config
    config = config.get_text_config()
    found: int | None = config.to_dict().get(config.attribute_map.get(POSITIONS, POSITIONS))
    return found


def default_compute(source: Source) -> torch.dtype:
    """float32 for a small model, else the source's own float type."""
    elements = sum(shape.elements for shape in source.parameters().values())
    return torch.float32 if elements < SMALL else source.dtype


def check_source(artifact: Artifact, against: Source) -> None:
    """EvaluateError where the artifact was made from something else."""
    if artifact.manifest["source"]["digest"] != against.digest():
        raise EvaluateError(
            f"{artifact.path} was not made from {against.path}: the digests of weights and config.json differ; compare "
            "with the model folder that was quantized, unchanged"
        )


def _run_blocks(
    pair: Pair, artifact: Artifact, against: Source, on_progress: Callable[[Progress], None]
) -> dict[str, Weighed]:
    """Run both models up to their heads, weighing the quantized weights on the way."""
    count = len(pair.original.runner.graph.blocks)
    weighed: dict[str, Weighed] = {}
    try:
        pair.embed()
        for index in range(count):
            pair.advance(index)
            weighed |= weigh(artifact, against, index)
            on_progress(Progress("blocks", index + 1, count))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise EvaluateError(
            f"no room for the activations, twice {pair.original.stream.bytes:,} bytes, on the disk of "
            f"{pair.original.stream.path.parent.parent}; give another folder for them (workdir), or a shorter text"
        ) from error
    return weighed | weigh(artifact, against, None)


def _sizes(artifact: Artifact, against: Source, weighed: dict[str, Weighed]) -> dict[str, Any]:
    """The fields of Scores that need no run."""
    elements = sum(one.elements for one in weighed.values())
    side_files = sum(file.stat().st_size for file in against.side_files())
    return {
        "layers": {name: one.sqnr_db for name, one in weighed.items()},
        "bits_per_weight": sum(one.bits for one in weighed.values()) / elements if elements else None,
        "bytes": artifact.bytes,
        "bytes_original": against.bytes + side_files,
    }
