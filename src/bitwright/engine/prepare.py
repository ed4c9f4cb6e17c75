"""Edits before calibration: a network that computes what the user's does, in a form that takes codes well.

First those that every recipe wants (`simplify.py`), then those that this one asks for (`edits.py`), each kept only
where held-out outputs are no worse for it (`trial.py`). What is left is OUT/float.onnx, with the user's names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from bitwright.engine.edits import PROVED_ON, Draft, Proposal, absorbed, equalized, leveled, smoothed
from bitwright.engine.judge import BATCH
from bitwright.engine.progress import OnStep, Step
from bitwright.engine.simplify import simplified
from bitwright.engine.trial import Trial
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.channels import Read
from bitwright.recipe.network import NetworkRecipe, divided_readers
from bitwright.recipe.targets import find_target
from bitwright.store.checkpoints import NUMBER, TENSORS, Checkpoints
from bitwright.store.onnx_rewrite import write_edited
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.sample_set import Samples
from bitwright.transforms import slopes_in_parts, with_copies

FLOAT = "float.onnx"
DRAFT = "draft.onnx"


@final
@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """The edited network, and for the manifest what each edit did and came to, by the field of the recipe."""

    source: OnnxSource
    edits: Mapping[str, Any]


def prepare(
    source: OnnxSource, recipe: NetworkRecipe, samples: Samples, out: Path, checkpoints: Checkpoints, on_step: OnStep
) -> Prepared:
    """The network after all edits, as OUT/float.onnx."""
    draft = simplified(source, recipe)
    edits: dict[str, Any] = {}
    if recipe.equalize or recipe.absorb or recipe.smooth or recipe.level:
        draft, edits = _Asked(Trial(source, recipe, samples), out, checkpoints).made(draft, recipe, on_step)
    return Prepared(_written(source, draft, recipe, out / FLOAT), edits)


def without_trials(source: OnnxSource, recipe: NetworkRecipe, out: Path) -> OnnxSource:
    """The network after the edits that need no samples, as OUT/float.onnx: what a plan can know beforehand."""
    return _written(source, simplified(source, recipe), recipe, out / FLOAT)


def _written(source: OnnxSource, draft: Draft, recipe: NetworkRecipe, path: Path) -> OnnxSource:
    """A draft as a file, with copies of values that have more than one number of bits, in the engine's faster parts."""
    divided = divided_readers(draft.network, recipe)
    draft = draft.edited(with_copies(draft.network, divided))
    if find_target(recipe.target).splits_slopes:
        draft = draft.edited(slopes_in_parts(draft.network, draft.constants))
    return write_edited(source, draft.network, draft.changed, path)


class _Asked:
    """The edits that a recipe asks for, tried one after the other on drafts of one source."""

    def __init__(self, trial: Trial, out: Path, checkpoints: Checkpoints) -> None:
        self.trial, self.out, self.checkpoints = trial, out, checkpoints
        self.batch = trial.samples.first(PROVED_ON)

    def made(self, draft: Draft, recipe: NetworkRecipe, on_step: OnStep) -> tuple[Draft, dict[str, Any]]:
        """The draft with every edit that does no harm, and what each did."""
        proposals: dict[str, Callable[[Draft], Proposal]] = {}
        if recipe.equalize:
            proposals["equalize"] = lambda now: equalized(now, self.batch)
        if recipe.absorb:
            proposals["absorb"] = lambda now: absorbed(now, self.batch)
        if recipe.smooth:
            proposals["smooth"] = lambda now: smoothed(now, self.batch, self._largest, recipe.smooth)
        if recipe.level:
            proposals["level"] = lambda now: leveled(now, self.batch, self._largest)
        noise, notes = self._noise(draft), {}
        for name, propose in proposals.items():
            proposal = propose(draft)
            tried = [(one, self._noise(one)) for one in proposal.drafts]
            good = [held for held in tried if held[1] <= noise]
            notes[name] = {
                "is_kept": bool(good),
                "output_noise_before": noise,
                "refused": list(proposal.refused),
                "tried": [{"output_noise": found, **one.notes} for one, found in tried],
            }
            if good:
                draft, noise = good[0] if name == "equalize" else min(good, key=lambda held: held[1])
            on_step(Step("edit", len(notes), len(proposals)))
        for path in self.out.glob(f"{DRAFT}*"):
            path.unlink()
        return draft, notes

    def _written(self, draft: Draft) -> OnnxSource:
        return _written(self.trial.source, draft, self.trial.recipe, self.out / DRAFT)

    def _noise(self, draft: Draft) -> float:
        return self.checkpoints.once("trial", lambda: self.trial.noise(self._written(draft)), NUMBER)

    def _largest(self, draft: Draft, reads: Sequence[Read]) -> Mapping[str, Tensor]:
        return self.checkpoints.once("largest", lambda: self._measured(draft, reads), TENSORS)

    def _measured(self, draft: Draft, reads: Sequence[Read]) -> Mapping[str, Tensor]:
        runner = OnnxRunner(self._written(draft))
        axes = {read.value: read.axis for read in reads}
        found: dict[str, Tensor] = {}
        for batch in self.trial.samples.batches(BATCH):
            for name, value in runner.run(batch, tuple(axes)).items():
                largest = value.abs().movedim(axes[name], 0).flatten(1).amax(1)
                found[name] = torch.maximum(found[name], largest) if name in found else largest
        return found
