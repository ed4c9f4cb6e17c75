"""Trained networks with data to calibrate and to score them on, for ``vision.py``.

The models and data are not part of this repository: ``--zoo DIR`` names a folder with a ``zoo.py`` that loads them.
Every sample leaves a record of its own, so that two models can be compared sample by sample; the figure is the mean of
the records, or what the task makes of all of them.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

Feeds = Mapping[str, Tensor]
Evaluation = Callable[[], Iterator[tuple[dict[str, Tensor], Tensor]]]  # inputs, and what is known of the answer


def mean(records: Tensor) -> float:
    return float(records.mean())


@dataclass(frozen=True)
class Task:
    """A network, what it is calibrated on, and how the outputs for evaluation inputs are scored.

    `reach`: recipe -> the largest drop of the figure that is asked of it; None: it is there to compare. `score`: of
    outputs [samples, ...] and what is known of the answers, one record for each sample. `is_relative`: drops are in %
    of the float network's figure. `timed`: samples for the clock, where those of calibration have not the shape.
    """

    name: str
    unit: str
    reach: Mapping[str, float | None]
    model: Callable[[], nn.Module]
    calibration: Callable[[], dict[str, Tensor]]
    evaluation: Evaluation
    score: Callable[[Tensor, Tensor], Tensor]
    figure: Callable[[Tensor], float] = mean
    higher_is_better: bool = True
    is_relative: bool = False
    is_transformer: bool = False
    free_sizes: bool = False
    timed: Callable[[], dict[str, Tensor]] | None = field(default=None)

    def drop(self, before: float, after: float) -> float:
        """How much worse the figure became, in the task's unit or in % of what it was."""
        found = before - after if self.higher_is_better else after - before
        return 100 * found / before if self.is_relative else found


def tasks(folder: Path) -> dict[str, Task]:
    """All tasks of the zoo in this folder, by name."""
    sys.path.insert(0, str(folder))
    zoo = importlib.import_module("zoo")
    pictures = (_pictures(zoo), _small_pictures(zoo), _keywords(zoo), _super_resolution(zoo), _diffusion(zoo))
    return {task.name: task for task in (*pictures, _sentences(zoo))}


def _right(output: Tensor, labels: Tensor) -> Tensor:
    return 100.0 * (output.argmax(1) == labels).double()


def _labelled(
    name: str, reach: Mapping[str, float | None], model: Callable[[], nn.Module], load: Callable, count: int
) -> Task:
    def calibration() -> dict[str, Tensor]:
        samples = load("calibration")
        return {"x": samples.prepare(samples.inputs[:count])}

    def evaluation() -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for inputs, labels in load("evaluation").batches(50):
            yield {"x": inputs}, labels

    return Task(name, "top-1 %", reach, model, calibration, evaluation, _right)


def _pictures(zoo: ModuleType) -> Task:
    reach = {"int8": 0.3, "int8_per_tensor": 1.0, "per_tensor_plain": None, "w4a8": 2.0, "w4a4": 6.0}
    return _labelled("mobilenet_v2", reach, zoo.mobilenet_v2, zoo.imagenet, 256)


def _small_pictures(zoo: ModuleType) -> Task:
    return _labelled("resnet20", {"int8": 0.2, "w4a4": 2.0}, zoo.resnet20, zoo.cifar10, 512)


def _keywords(zoo: ModuleType) -> Task:
    return _labelled("dscnn", {"int8": 0.3}, zoo.dscnn, zoo.keywords, 200)


def _super_resolution(zoo: ModuleType) -> Task:
    def evaluation() -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for pair in zoo.set5(2):
            yield {"x": pair.enlarged}, pair.reference

    def score(output: Tensor, reference: Tensor) -> Tensor:
        wrong = (output.clamp(0, 1) - reference)[..., 2:-2, 2:-2].double() * 255
        return 20 * torch.log10(255 / wrong.square().flatten(1).mean(1).sqrt())

    def calibration() -> dict[str, Tensor]:
        return {"x": zoo.luma_calibration(2)}

    return Task("vdsr", "PSNR dB", {"int8": 0.15}, zoo.vdsr, calibration, evaluation, score, free_sizes=True)


def _diffusion(zoo: ModuleType) -> Task:
    def calibration() -> dict[str, Tensor]:
        """Pictures at steps spread evenly over all of them."""
        samples = zoo.mnist_test("calibration").take(256)
        pictures = samples.prepare(samples.inputs)
        steps = torch.arange(len(pictures)) * zoo.DIFFUSION_STEPS // len(pictures)
        share = zoo.signal_shares()[steps].view(-1, 1, 1, 1)
        noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
        return {"x": share.sqrt() * pictures + (1 - share).sqrt() * noise, "step": steps}

    def evaluation() -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        samples = zoo.mnist_test("evaluation")
        noisy, steps, noise = zoo.noisy_pictures(samples.prepare(samples.inputs))
        for start in range(0, len(noise), 100):
            part = slice(start, start + 100)
            yield {"x": noisy[part], "step": steps[part]}, noise[part]

    def score(output: Tensor, noise: Tensor) -> Tensor:
        return (output - noise).double().square().flatten(1).mean(1)

    shape = {"higher_is_better": False, "is_relative": True}
    return Task("ddpm", "noise MSE", {"int8": 3.0}, zoo.ddpm_mnist, calibration, evaluation, score, **shape)


def _sentences(zoo: ModuleType) -> Task:
    """An encoder with the mean over tokens behind it, scored on pairs of sentences of one year, timed on 128 tokens."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    load = functools.cache(lambda: zoo.load_sentence_model(zoo.minilm_path()))

    def encoded(texts: list[str], length: int, padding: str | bool = "max_length") -> dict[str, Tensor]:
        _, tokenizer = load()
        found = tokenizer(texts, max_length=length, truncation=True, padding=padding, return_tensors="pt")
        return {name: found[name] for name in names}

    def calibration() -> dict[str, Tensor]:
        """Sentences of another year, spread over all of its parts."""
        pairs = zoo.sts(2014)
        return encoded([pair.first for pair in pairs[:: len(pairs) // 128]][:128], 32)

    def evaluation() -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Both sentences of each pair in one batch, all the first ones before the second ones."""
        pairs = sorted(zoo.sts(2015), key=lambda pair: len(pair.first) + len(pair.second))
        for start in range(0, len(pairs), 32):
            part = pairs[start : start + 32]
            texts = [pair.first for pair in part] + [pair.second for pair in part]
            yield encoded(texts, 256, True), torch.tensor([pair.score for pair in part])

    def score(output: Tensor, people: Tensor) -> Tensor:
        first, second = output.double().chunk(2)
        return torch.stack([torch.cosine_similarity(first, second), people.double()], 1)

    return Task(
        name="minilm",
        unit="STS15 x100",
        reach={"int8": 0.5, "int8_dynamic": 0.3, "int8_smooth": 0.5},
        model=lambda: _Encoder(load()[0]),
        calibration=calibration,
        evaluation=evaluation,
        score=score,
        figure=lambda records: 100 * rank_correlation(records[:, 0], records[:, 1]),
        is_transformer=True,
        timed=lambda: encoded(zoo.documents("tinystories_calibration")[:32], 128),
    )


class _Encoder(nn.Module):
    """The encoder with inputs by place, and the mean of its last hidden state over the tokens."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        hidden = self.inner(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        shares = mask.unsqueeze(-1).to(hidden.dtype)
        found: Tensor = (hidden * shares).sum(1) / shares.sum(1)
        return found


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's: the correlation of ranks, equal numbers sharing the mean of theirs."""
    ranks = torch.stack([_ranks(first), _ranks(second)])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(numbers: Tensor) -> Tensor:
    _, places, counts = torch.unique(numbers, return_inverse=True, return_counts=True)
    return (counts.cumsum(0).double() - (counts - 1).double() / 2)[places]


def first_of(evaluation: Evaluation, batches: int | None) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """The first batches of an evaluation; None: all of them."""
    return itertools.islice(evaluation(), batches)
