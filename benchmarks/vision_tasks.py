"""Trained networks with data to calibrate and to score them on, for ``vision.py``.

The models and data are not part of this repository: ``--zoo DIR`` names a folder with a ``zoo.py`` that loads them.
Every score is one number per sample, so that two models can be compared sample by sample.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

Feeds = Mapping[str, Tensor]


@dataclass(frozen=True)
class Task:
    """A network, what it is calibrated on, and how the outputs for evaluation inputs are scored, one by one."""

    name: str
    unit: str
    higher_is_better: bool
    model: Callable[[], nn.Module]
    calibration: Callable[[], dict[str, Tensor]]
    evaluation: Callable[[], Iterator[tuple[dict[str, Tensor], Tensor]]] | None  # None: only timed
    score: Callable[[Tensor, Tensor], Tensor]
    free_space: bool = False


def tasks(folder: Path) -> dict[str, Task]:
    """All tasks of the zoo in this folder, by name."""
    sys.path.insert(0, str(folder))
    zoo = importlib.import_module("zoo")
    pictures = (_pictures(zoo), _small_pictures(zoo), _keywords(zoo), _super_resolution(zoo), _diffusion(zoo))
    return {task.name: task for task in (*pictures, _sentences(zoo))}


def _right(output: Tensor, labels: Tensor) -> Tensor:
    return 100.0 * (output.argmax(1) == labels).double()


def _labelled(name: str, model: Callable[[], nn.Module], load: Callable[[str], object], count: int) -> Task:
    def calibration() -> dict[str, Tensor]:
        samples = load("calibration")
        return {"x": samples.prepare(samples.inputs[:count])}  # type: ignore[attr-defined]

    def evaluation() -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for inputs, labels in load("evaluation").batches(50):  # type: ignore[attr-defined]
            yield {"x": inputs}, labels

    return Task(name, "top-1 %", True, model, calibration, evaluation, _right)


def _pictures(zoo: ModuleType) -> Task:
    return _labelled("mobilenet_v2", zoo.mobilenet_v2, zoo.imagenet, 256)


def _small_pictures(zoo: ModuleType) -> Task:
    return _labelled("resnet20", zoo.resnet20, zoo.cifar10, 512)


def _keywords(zoo: ModuleType) -> Task:
    return _labelled("dscnn", zoo.dscnn, zoo.keywords, 200)


def _super_resolution(zoo: ModuleType) -> Task:
    def evaluation() -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for pair in zoo.set5(2):
            yield {"x": pair.enlarged}, pair.reference

    def score(output: Tensor, reference: Tensor) -> Tensor:
        wrong = (output.clamp(0, 1) - reference)[..., 2:-2, 2:-2].double() * 255
        return 20 * torch.log10(255 / wrong.square().flatten(1).mean(1).sqrt())

    return Task("vdsr", "PSNR dB", True, zoo.vdsr, lambda: {"x": zoo.luma_calibration(2)}, evaluation, score, True)


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

    return Task("ddpm", "noise MSE", False, zoo.ddpm_mnist, calibration, evaluation, score)


def _sentences(zoo: ModuleType) -> Task:
    """An encoder on texts of 128 tokens. Its score, a rank correlation, is no mean over samples: it is timed alone."""

    def calibration() -> dict[str, Tensor]:
        _, tokenizer = zoo.load_sentence_model(zoo.minilm_path())
        texts = zoo.documents("tinystories_calibration")[:64]
        found = tokenizer(texts, max_length=128, truncation=True, padding="max_length", return_tensors="pt")
        return {name: found[name] for name in ("input_ids", "attention_mask", "token_type_ids")}

    def unscored(output: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    return Task("minilm", "", True, lambda: _Encoder(zoo), calibration, None, unscored)


class _Encoder(nn.Module):
    """The encoder with inputs by place, and its last hidden state alone."""

    def __init__(self, zoo: ModuleType) -> None:
        super().__init__()
        self.inner, _ = zoo.load_sentence_model(zoo.minilm_path())

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        found: Tensor = self.inner(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        return found


def interval(differences: Tensor) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences (normal approximation)."""
    spread = 1.96 * float(differences.std()) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return float(differences.mean()) - spread, float(differences.mean()) + spread
