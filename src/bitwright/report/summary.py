"""What the page shows, computed from what the files say.

Where the bytes go, what each layer adds to the total loss, which layers are worst, and the notes and kept tensors
grouped so that a model of a thousand weights still reads as one page: equal texts are one line with a list of names.
Histograms are carried for the worst layers only; they would be most of the page's size otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import prod

from bitwright.report.changes import kind_of
from bitwright.report.records import Histogram, Kept, Manifest, Weight

WORST = 6
KEPT_LABELS = {
    "embedding": "Embeddings",
    "head": "Output head",
    "norm": "Norms",
    "bias": "Biases",
    "router": "Routers",
    "gate": "Gates",
    "other": "Other kept tensors",
}


class Tone(StrEnum):
    """How a part of the size bar is coloured."""

    CODES = "codes"
    PARAMS = "params"
    RESIDUAL = "residual"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the stored bytes."""

    label: str
    bytes: float
    tone: Tone


@dataclass(frozen=True, slots=True)
class Row:
    """One quantized weight, as the table and the layer plot need it."""

    name: str
    kind: str
    block: int | None
    shape: tuple[int, ...]
    spec: str
    bits: float | None
    sqnr_db: float | None
    share: float | None
    gain: float | None
    solver: str
    chosen: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Worst:
    """One of the layers that lose most: its row in the table, and its histograms."""

    row: int
    histogram: Histogram | None
    inputs: Histogram | None


@dataclass(frozen=True, slots=True)
class Note:
    """One text, and all weights and blocks that carry it."""

    text: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeptGroup:
    """Tensors kept for one reason, or operators, which have no bytes of their own."""

    label: str
    reason: str
    bytes: float | None
    members: tuple[Kept, ...]


def rows(weights: tuple[Weight, ...]) -> tuple[Row, ...]:
    """One row per weight, in the order of the manifest."""
    total = sum(weight.loss or 0.0 for weight in weights)
    return tuple(row(weight, total) for weight in weights)


def row(weight: Weight, total: float) -> Row:
    """The row of one weight; `gain` is how far its loss lies below that of rounding to nearest."""
    elements = prod(weight.shape) if weight.shape else 0
    loss, nearest = weight.loss, weight.loss_nearest
    return Row(
        name=weight.name,
        kind=kind_of(weight.name),
        block=weight.block,
        shape=weight.shape,
        spec=weight.spec,
        bits=weight.storage.total / elements if elements > 0 and weight.storage.total > 0 else None,
        sqnr_db=weight.sqnr_db,
        share=loss / total if loss is not None and total > 0 else None,
        gain=1 - loss / nearest if loss is not None and nearest is not None and nearest > 0 else None,
        solver=weight.solver,
        chosen=weight.chosen,
        notes=weight.notes,
    )


def worst(weights: tuple[Weight, ...]) -> tuple[Worst, ...]:
    """The layers with the largest share of the total loss, worst first."""
    lossy = [
        (weight.loss, index) for index, weight in enumerate(weights) if weight.loss is not None and weight.loss > 0
    ]
    found = sorted(lossy, key=lambda pair: (-pair[0], pair[1]))[:WORST]
    return tuple(Worst(index, weights[index].histogram, weights[index].inputs) for _, index in found)


def parts(manifest: Manifest) -> tuple[Part, ...]:
    """Where the bytes go, in the order in which the bar is drawn; empty parts are left out."""
    stored = [weight.storage for weight in manifest.weights]
    params = sum(bits.scales + bits.zeros for bits in stored)
    codes = sum(bits.codes for bits in stored)
    residual = sum(bits.total for bits in stored) - codes - params
    found = [
        Part("Quantized codes", codes / 8, Tone.CODES),
        Part("Scales and zeros", params / 8, Tone.PARAMS),
        Part("Residual terms", residual / 8, Tone.RESIDUAL),
    ]
    kinds = dict.fromkeys([*KEPT_LABELS, *(tensor.kind for tensor in manifest.kept)])
    for kind in kinds:
        size = sum(tensor.bytes for tensor in manifest.kept if tensor.kind == kind)
        found.append(Part(KEPT_LABELS.get(kind, kind), size, Tone.KEPT))
    return tuple(part for part in found if part.bytes > 0)


def quantized_bits(weights: tuple[Weight, ...]) -> float | None:
    """Stored bits per element of the quantized weights alone."""
    elements = sum(prod(weight.shape) for weight in weights if weight.shape)
    return sum(weight.storage.total for weight in weights) / elements if elements > 0 else None


def notes(manifest: Manifest) -> tuple[Note, ...]:
    """Every note of every weight and block, equal texts together, the most frequent first."""
    named: list[tuple[str, tuple[str, ...]]] = [(weight.name, weight.notes) for weight in manifest.weights]
    named += [(block.name, block.notes) for block in manifest.blocks]
    found = grouped((text, name) for name, texts in named for text in texts)
    return tuple(Note(text, names) for text, names in sorted(found.items(), key=lambda item: -len(item[1])))


def grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Second elements by first element, both in order of appearance."""
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return {key: tuple(values) for key, values in found.items()}


def kept_groups(tensors: tuple[Kept, ...]) -> tuple[KeptGroup, ...]:
    """Every kept tensor, grouped by kind and reason, the largest group first."""
    found: dict[tuple[str, str], list[Kept]] = {}
    for tensor in tensors:
        found.setdefault((tensor.kind, tensor.reason), []).append(tensor)
    groups = [
        KeptGroup(KEPT_LABELS.get(kind, kind), reason, sum(tensor.bytes for tensor in members), tuple(members))
        for (kind, reason), members in found.items()
    ]
    return tuple(sorted(groups, key=lambda group: -(group.bytes or 0)))
