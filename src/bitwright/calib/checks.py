"""Is this calibration data any good? What can be told from the samples before any of them runs.

A network calibrated on too few, repeated or constant inputs passes every later test on the same inputs, and fails in
use. So samples are looked at one by one as they are loaded: their names and shapes, duplicates by digest, NaN, channels
that never change. A finding is plain data that names the tensor; whoever runs the calibration decides what stops it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import final

import torch
from jaxtyping import Shaped
from torch import Tensor

ENOUGH = 32  # samples; the extremes of fewer say little about those of the next one
_LISTED = 8  # samples or channels that a sentence names


class Problem(Enum):
    """What is wrong; the value is how reports spell it."""

    NONE_AT_ALL = "no samples"
    TOO_FEW = "few samples"
    SHAPES_VARY = "shapes vary"
    DUPLICATE = "duplicate samples"
    NOT_FINITE = "NaN or infinite values"
    CONSTANT = "constant"
    DRIFT = "range drifts"
    OUTSIDE = "values outside the calibrated range"
    DISTANT = "distribution differs"

    @property
    def is_fatal(self) -> bool:
        """Whether no sound range can come of it."""
        return self in (Problem.NONE_AT_ALL, Problem.NOT_FINITE)


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of one tensor ("" for the samples as such): a sentence for people, the samples, and a size.

    `amount` is in the unit that the sentence names: a count, a fraction, or a multiple.
    """

    problem: Problem
    tensor: str
    text: str
    samples: tuple[int, ...] = ()
    amount: float = 0.0


@final
class InputCheck:
    """Looks at samples as they are loaded; `findings` says what is wrong with all of them together.

    `expected` has the shape of every input of the network, first axis included; None: any size.
    """

    __slots__ = ("_digests", "_expected", "_inputs")

    def __init__(self, expected: Mapping[str, tuple[int | None, ...] | None]) -> None:
        self._expected = dict(expected)
        self._inputs = {name: _Input() for name in self._expected}
        self._digests: dict[int, bytes] = {}

    def add(self, batch: Mapping[str, Shaped[Tensor, "samples ..."]], first: int) -> None:
        """Look at the samples `first`, `first` + 1, ...; raises ValueError where they do not fit the network."""
        size = self._fitting(batch)
        for index in range(first, first + size):
            digest = hashlib.blake2b(digest_size=16)
            for name in self._expected:
                row = batch[name][index - first].detach().cpu().contiguous()
                digest.update(f"{name} {row.dtype} {tuple(row.shape)}".encode())
                digest.update(row.reshape(-1).view(torch.uint8).numpy().data)
            self._digests[index] = digest.digest()
        for name, held in self._inputs.items():
            held.add(batch[name], first)

    def _fitting(self, batch: Mapping[str, Shaped[Tensor, "samples ..."]]) -> int:
        """How many samples the batch has."""
        if batch.keys() != self._expected.keys():
            raise ValueError(
                f"the network's inputs are {sorted(self._expected)}; the calibration data has {sorted(batch)}; "
                "name the arrays after the inputs"
            )
        for name, shape in self._expected.items():
            found = tuple(batch[name].shape)
            if shape is not None and not _fits(found, shape):
                wanted = " x ".join("any" if size is None else str(size) for size in (None, *shape[1:]))
                raise ValueError(f"{name}: calibration data of shape {found} does not fit the input, which is {wanted}")
            if not found or 0 in found:
                raise ValueError(f"{name}: calibration data of shape {found} is empty; axis 0 counts the samples")
        sizes = {name: len(batch[name]) for name in self._expected}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"the inputs of one batch have as many samples each; found {sizes}")
        return next(iter(sizes.values()))

    def findings(self) -> tuple[Finding, ...]:
        """Everything that is wrong, the gravest first."""
        count = len(self._digests)
        if count == 0:
            return (Finding(Problem.NONE_AT_ALL, "", "there are no calibration samples at all"),)
        found = [finding for name, held in self._inputs.items() for finding in held.findings(name)]
        if count < ENOUGH:
            text = f"{count} samples; extremes settle at some {ENOUGH} or more"
            found.append(Finding(Problem.TOO_FEW, "", text, amount=count))
        return tuple(sorted([*found, *self._duplicates()], key=lambda finding: not finding.problem.is_fatal))

    def _duplicates(self) -> list[Finding]:
        first_with: dict[bytes, int] = {}
        again = {
            index: first
            for index, digest in sorted(self._digests.items())
            if (first := first_with.setdefault(digest, index)) != index
        }
        if not again:
            return []
        pairs = ", ".join(f"{index} is {first}" for index, first in list(again.items())[:_LISTED])
        text = f"{len(again)} of {len(self._digests)} samples repeat an earlier one ({pairs}); they add nothing"
        return [Finding(Problem.DUPLICATE, "", text, tuple(again), len(again))]


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    """Whether the axes after the first agree; how many samples go in at once is the runner's business."""
    return len(found) == len(shape) and all(b in (None, a) for a, b in zip(found[1:], shape[1:], strict=True))


@final
@dataclass(slots=True)
class _Input:
    """What was seen of one input: shapes with a sample each, extremes by channel, samples that are not finite."""

    shapes: dict[tuple[int, ...], int] = field(default_factory=dict)
    damaged: list[int] = field(default_factory=list)
    channels: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # lowest and highest of each batch
    samples: int = 0

    def add(self, values: Tensor, first: int) -> None:
        self.shapes.setdefault(tuple(values.shape[1:]), first)
        self.samples += len(values)
        if not values.is_floating_point():
            return  # of integers (tokens, masks) a constant one is nothing to report
        bad = ~values.isfinite().reshape(len(values), -1).all(1)
        self.damaged += (first + bad.nonzero().squeeze(1)).tolist()
        rows = (values if values.dim() > 1 else values[:, None]).float()
        others = [axis for axis in range(rows.dim()) if axis != 1]  # without a copy in which channels come first
        self.channels.append((rows.amin(others), rows.amax(others)))

    def findings(self, name: str) -> list[Finding]:
        found = []
        if self.damaged:
            text = f"{name}: NaN or infinite values in samples {_some(self.damaged)}; remove them or repair the loader"
            found.append(Finding(Problem.NOT_FINITE, name, text, tuple(self.damaged), len(self.damaged)))
        if len(self.shapes) > 1:
            shapes = ", ".join(f"{shape} (sample {at})" for shape, at in list(self.shapes.items())[:_LISTED])
            text = f"{name}: samples have {len(self.shapes)} shapes: {shapes}"
            found.append(Finding(Problem.SHAPES_VARY, name, text, tuple(self.shapes.values()), len(self.shapes)))
        elif self.channels and self.samples > 1:
            low, high = (torch.stack(ends) for ends in zip(*self.channels, strict=True))
            constant = (low.amin(0) == high.amax(0)).nonzero().squeeze(1).tolist()
            if constant:
                text = f"{name}: channels (axis 1) {_some(constant)} of {low.shape[1]} have one value in all samples"
                found.append(Finding(Problem.CONSTANT, name, text, amount=len(constant)))
        return found


def _some(numbers: list[int]) -> str:
    """The first few numbers of a list."""
    more = f" and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else ""
    return ", ".join(str(number) for number in numbers[:_LISTED]) + more
