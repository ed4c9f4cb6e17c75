"""The three changes that would buy most accuracy.

Each weight records its loss now, at one bit more, and with groups of half the size, and what each would store. A
candidate applies one of the two to a single weight, or to all weights of one kind (the same place in every block,
such as `mlp.down_proj`), since that is how people write recipes. Candidates are ranked by loss saved per byte added,
where every candidate pays 2% of the quantized bytes on top: below that nobody minds the bytes, so small changes
compete by what they save, and large ones by what they save per byte. (By bytes alone the smallest weight of the model
would win; by loss alone the largest.) What was chosen is taken out and the rest is ranked again, so that the three may
all be done together and their savings added. Interactions between layers are not modelled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from bitwright.report.records import Alternative, Weight

# The share of the quantized bytes below which a change is as good as free.
EASY = 0.02
INDEX = re.compile(r"(?<![^.])\d+(?![^.])")


class Action(StrEnum):
    """The two changes whose loss a run records."""

    ONE_BIT_MORE = "one bit more per code"
    HALF_GROUP = "groups of half the size"


ALTERNATIVES: dict[Action, Callable[[Weight], Alternative | None]] = {
    Action.ONE_BIT_MORE: lambda weight: weight.one_bit_more,
    Action.HALF_GROUP: lambda weight: weight.half_group,
}


@dataclass(frozen=True, slots=True)
class Change:
    """A change to some weights: what it saves of the total loss, and what it costs."""

    pattern: str
    action: Action
    weights: tuple[str, ...]
    share: float
    bytes: float
    loss_now: float
    loss_after: float


def kind_of(name: str) -> str:
    """The name with every index replaced by a star: `model.layers.*.mlp.down_proj`."""
    return INDEX.sub("*", name)


def best_changes(weights: tuple[Weight, ...], count: int = 3) -> tuple[Change, ...]:
    """At most `count` changes that exclude each other's weights, best first."""
    total = sum(weight.loss or 0.0 for weight in weights)
    easy = EASY * sum(weight.storage.total for weight in weights) / 8 or 1.0
    chosen: list[Change] = []
    while total > 0 and len(chosen) < count:
        taken = {name for change in chosen for name in change.weights}
        found = candidates([weight for weight in weights if weight.name not in taken], total)
        best = max(found, key=lambda change: change.share / (max(change.bytes, 0.0) + easy), default=None)
        if best is None or best.share <= 0:
            break
        chosen.append(best)
    return tuple(chosen)


def candidates(weights: list[Weight], total: float) -> Iterator[Change]:
    """Each action on each weight and on each kind; weights with an unrecorded figure are left out."""
    kinds: dict[str, list[Weight]] = {}
    for weight in weights:
        kinds.setdefault(kind_of(weight.name), []).append(weight)
    for action in Action:
        for pattern, members in kinds.items():
            yield from change(pattern, action, members, total)
        for weight in weights:
            yield from change(weight.name, action, [weight], total)


def change(pattern: str, action: Action, members: list[Weight], total: float) -> Iterator[Change]:
    """The change, or nothing where no member has the figures."""
    known = [
        (weight, weight.loss, other)
        for weight in members
        if weight.loss is not None and (other := ALTERNATIVES[action](weight)) is not None
    ]
    if not known:
        return
    now, after = sum(loss for _, loss, _ in known), sum(other.loss for _, _, other in known)
    yield Change(
        pattern=pattern if len(known) > 1 else known[0][0].name,
        action=action,
        weights=tuple(weight.name for weight, _, _ in known),
        share=(now - after) / total,
        bytes=sum(other.bits - weight.storage.total for weight, _, other in known) / 8,
        loss_now=now,
        loss_after=after,
    )
