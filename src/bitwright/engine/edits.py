"""Edits that a recipe asks for: each is proved in float64, tried on held-out samples, and kept where it does no harm.

A draft is the network with its numbers as far as it has come. An edit proposes drafts; what they come to after
quantization is measured (`trial.py`), and the best takes the place of the draft if its outputs are no worse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from torch import Tensor

from bitwright.execute.prove import prove
from bitwright.graph.channels import Read, Refusal, Site, find_sites
from bitwright.graph.network import Network
from bitwright.transforms import (
    Absorb,
    Edit,
    Equalize,
    Level,
    Moments,
    Smooth,
    activation_ranges,
    close_clips,
    is_taken_by_rows,
    open_clips,
    rescaling,
    scaled_by_site,
    with_gains,
    without_bounds,
)

PROVED_ON = 2  # samples; in float64 they take as long as many in float32


@final
@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A network on its way, and what its normalizations knew. `notes`: what the last edit did, for the manifest.

    `originals`: the constants as they were read; those that no edit changed are the same objects.
    """

    network: Network
    constants: Mapping[str, Tensor]
    moments: Mapping[str, Moments] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    originals: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def changed(self) -> dict[str, Tensor]:
        """The constants that edits changed or added."""
        return {name: held for name, held in self.constants.items() if held is not self.originals.get(name)}

    def edited(self, edit: Edit) -> Draft:
        """The draft after an edit."""
        network, constants = edit.apply(self.network, self.constants)
        return replace(self, network=network, constants=constants)


@final
@dataclass(frozen=True, slots=True)
class Proposal:
    """Drafts that an edit proposes, by preference where there are several; the places that it had to leave, and why."""

    drafts: tuple[Draft, ...]
    refused: tuple[str, ...]


Largest = Callable[[Draft, Sequence[Read]], Mapping[str, Tensor]]  # by value, along the axis that is read


def equalized(draft: Draft, batch: Mapping[str, Tensor]) -> Proposal:
    """The draft with channels balanced across layers.

    Clips stand in the way of a scale for each channel. Without their bounds, which the ranges of activations take over,
    all runs in integers; with a bound for each channel the draft is exact, but engines compute those in float.
    """
    opened = draft.edited(open_clips(draft.network, draft.constants))
    sites, refused = _proved(opened, batch)
    scaled = Equalize().scales(sites, opened.constants)
    made = opened.edited(scaled.edit(sites))
    moments = dict(draft.moments)
    for site in sites:
        if site.value in scaled.scales:
            moments = scaled_by_site(moments, site, scaled.scales[site.value])
    notes = {"sites": [str(site) for site in sites if site.value in scaled.scales]}
    exact = replace(made.edited(close_clips(made.network, made.constants)), moments=moments, notes=notes)
    free = without_bounds(exact.network, exact.constants, dict.fromkeys(exact.network.values, 0.0))
    if not free.steps:
        return Proposal((exact,) if scaled.scales else (), refused)
    return Proposal(
        (replace(exact.edited(free), notes=notes | {"bounds_left_to_ranges": len(free.steps)}), exact), refused
    )


def absorbed(draft: Draft, batch: Mapping[str, Tensor]) -> Proposal:
    """The draft with what is always there in an activation moved into the biases behind it."""
    sites, refused = _proved(draft, batch)
    made, taken, left = draft, [], list(refused)
    for site in sites:
        found = Absorb().plan(made.network, made.constants, site, made.moments)
        if found.reason:
            left.append(f"{site.value}: {found.reason}")
            continue
        made = replace(made.edited(found.edit), moments=dict(made.moments) | {site.value: found.moments})
        taken.append({"site": str(site), "channels": int((found.amount != 0).sum())})
    return Proposal((replace(made, notes={"sites": taken}),) if taken else (), tuple(left))


def smoothed(draft: Draft, batch: Mapping[str, Tensor], largest: Largest, alphas: Sequence[float]) -> Proposal:
    """For each alpha, the draft with outlier channels moved from activations into the weights that read them."""
    gained = draft.edited(with_gains(draft.network, draft.constants))
    sites, refused = _proved(gained, batch)
    if not sites:
        return Proposal((), refused)
    found = largest(gained, [read for site in sites for read in site.reads])
    made = []
    for alpha in alphas:
        now = gained
        for site in sites:
            scale = Smooth(alpha).scale(site, activation_ranges(site, found), now.constants)
            now = now.edited(rescaling(site, scale))
        made.append(replace(now, notes={"alpha": alpha, "sites": [str(site) for site in sites]}))
    return Proposal(tuple(made), refused)


def leveled(draft: Draft, batch: Mapping[str, Tensor], largest: Largest) -> Proposal:
    """The draft with channels of activations made equally large, where rows of weights take that for free.

    What `largest` was found on sees no change. Well beyond it a channel is clipped that was not before.
    """
    opened = draft.edited(open_clips(draft.network, draft.constants))
    bounds = {name: opened.constants[name] for name in opened.constants.keys() - draft.constants.keys()}
    proved, refused = _proved(opened, batch)
    sites, left = [], list(refused)
    for site in proved:
        if is_taken_by_rows(opened.network, site):
            sites.append(site)
        else:
            left.append(f"{site.value}: rows of weights do not take its scale for free")
    if not sites:
        return Proposal((), tuple(left))
    found, now = largest(opened, [read for site in sites for read in site.reads]), opened
    for site in sites:
        ends = [float(bounds[tie.constant].abs().min()) for tie in site.shifts if tie.constant in bounds]
        scale = Level().scale(activation_ranges(site, found), min(ends, default=None))
        now = now.edited(rescaling(site, scale))
    now = replace(now, constants={**now.constants, **bounds})
    now = now.edited(close_clips(now.network, now.constants))
    return Proposal((replace(now, notes={"sites": [str(site) for site in sites]}),), tuple(left))


def _proved(draft: Draft, batch: Mapping[str, Tensor]) -> tuple[tuple[Site, ...], tuple[str, ...]]:
    """The sites of a draft that hold on numbers; why others do not."""
    found = find_sites(draft.network, draft.constants)
    proved = prove(draft.network, draft.constants, found.sites, batch)
    return proved.sites, tuple(_words(refusal) for refusal in proved.rejected)


def _words(refusal: Refusal) -> str:
    return f"{refusal.value}: {refusal.reason}"
