"""The user's own measure of a whole network: the same function on the original and on what is delivered.

The function gets a model to call and returns how good it is: one number, or a score for every sample. Of scores the
mean is the figure, and because both models met the same samples in the same order, the difference gets an interval
from resampling the pairs. Higher is better unless the function carries the attribute `higher_is_better = False`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from inspect import getattr_static
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.evaluate.error import EvaluateError
from bitwright.evaluate.outputs import Runnable
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.store.hooks import users_code
from bitwright.store.onnx_source import OnnxSource, read_model

RESAMPLES = 2000
FURTHEST = 10.0  # times less noise is the most that is asked for at once
LEVEL = 0.95

Given = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Model = Callable[[Given], Tensor | dict[str, Tensor]]
Metric = Callable[[Model], Any]


@final
@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of both models. `samples`: how many scores it is the mean of, 0 for a single number.

    `interval`: of `change`, at 95%, where there are two scores or more.
    """

    name: str
    original: float
    delivered: float
    higher_is_better: bool
    samples: int
    interval: tuple[float, float] | None

    @property
    def change(self) -> float:
        """What delivery added to the figure."""
        return self.delivered - self.original

    @property
    def loss(self) -> float:
        """How much worse it became; negative where it became better."""
        return -self.change if self.higher_is_better else self.change

    def as_json(self) -> dict[str, Any]:
        """Plain data for a report."""
        return {**asdict(self), "change": self.change, "loss": self.loss}


def measure_metric(metric: Metric, name: str, original: Model, delivered: Model) -> Measured:
    """The metric of both models. Raises EvaluateError where it returns anything but finite numbers."""
    before = _scores(metric, name, original, "original")
    return _measured(metric, name, before, _scores(metric, name, delivered, "delivered model"))


def _measured(metric: Metric, name: str, before: Float[Tensor, "..."], after: Float[Tensor, "..."]) -> Measured:
    """What the scores of both models come to."""
    if before.shape != after.shape:
        raise EvaluateError(
            f"--metric {name}: {_count(before)} for the original, but {_count(after)} for the delivered model; it must "
            f"measure the same samples every time"
        )
    samples = len(before) if before.dim() else 0
    higher = bool(getattr_static(metric, "higher_is_better", True))
    interval = _interval(after - before) if samples > 1 else None
    return Measured(name, float(before.mean()), float(after.mean()), higher, samples, interval)


@final
class LargestDrop:
    """A goal: the metric of a network, held against the original's, may be worse by `most` and no more.

    The original is measured at once; EvaluateError where that gives anything but finite numbers, before other work.
    """

    def __init__(self, metric: Metric, name: str, most: float, original: Model) -> None:
        self.metric, self.name, self.most = metric, name, most
        self._before = _scores(metric, name, original, "original")

    @property
    def told(self) -> Mapping[str, Any]:
        """As it is in the manifest."""
        return {"metric": self.name, "max_drop": self.most}

    def figure(self, noise: float, network: Runnable) -> float:
        """By how much the metric is worse."""
        after = _scores(self.metric, self.name, callable_model(network), "quantized model")
        return _measured(self.metric, self.name, self._before, after).loss

    def excess(self, figure: float) -> float:
        """The loss over the largest that is allowed: to either side no further than makes sense as noise."""
        return min(max(figure / self.most, 0.0), FURTHEST)


def open_model(path: Path, threads: int = 1) -> Model:
    """The network in an ONNX file, float or quantized, to call. Raises SourceError for a file that is none."""
    path = Path(path)
    return callable_model(OnnxRunner(read_model(path), path.parent, threads))


def callable_model(network: Runnable | OnnxSource) -> Model:
    """A network to call with its only input, its inputs in order, or a dict of them.

    It hands out its output, or a dict by name where it has several.
    """
    runner: Runnable = OnnxRunner(network) if isinstance(network, OnnxSource) else network
    inputs = runner.network.inputs

    def call(given: Given) -> Tensor | dict[str, Tensor]:
        if isinstance(given, Mapping):
            feed = dict(given)
        else:
            placed = (given,) if isinstance(given, Tensor) else tuple(given)
            if len(placed) != len(inputs):
                raise EvaluateError(
                    f"the model was called with {len(placed)} tensors, but it has {len(inputs)} inputs "
                    f"({', '.join(inputs)}); call it with exactly these"
                )
            feed = dict(zip(inputs, placed, strict=True))
        found = runner.run(feed)
        return next(iter(found.values())) if len(found) == 1 else found

    return call


def _scores(metric: Metric, name: str, model: Model, which: str) -> Float[Tensor, "..."]:
    """What the metric returns for a model, float64: a scalar or a row of scores."""
    with users_code(f"--metric {name}, run on the {which},"), torch.no_grad():
        returned = metric(model)
    try:
        scores = torch.as_tensor(returned, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise EvaluateError(
            f"--metric {name}: gave a {type(returned).__name__} for the {which}; it must return a number, or a row "
            f"with a score for every sample"
        ) from error
    if scores.dim() > 1 or not scores.numel():
        raise EvaluateError(
            f"--metric {name}: gave shape {list(scores.shape)} for the {which}; it must return a number, or a row with "
            f"a score for every sample"
        )
    bad = [index for index, score in enumerate(scores.reshape(-1).tolist()) if not math.isfinite(score)]
    if bad:
        where = f", first for sample {bad[0]}" if scores.dim() else ""
        raise EvaluateError(
            f"--metric {name}: gave {scores.reshape(-1)[bad[0]].item()} for the {which}{where}; a metric must be a "
            f"finite number: look for an empty set of samples, a division by zero, or outputs that are not finite"
        )
    return scores


def _interval(changes: Float[Tensor, "samples"], seed: int = 0) -> tuple[float, float]:
    """The interval of the mean of paired differences.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile intervals).
    """
    generator = torch.Generator().manual_seed(seed)
    means = torch.stack(
        [changes[torch.randint(len(changes), (len(changes),), generator=generator)].mean() for _ in range(RESAMPLES)]
    )
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.quantile(means, ends).tolist()
    return low, high


def _count(scores: Float[Tensor, "..."]) -> str:
    return f"{len(scores)} scores" if scores.dim() else "a single number"
