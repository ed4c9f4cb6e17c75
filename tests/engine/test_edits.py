"""What the edits of a run propose: drafts that compute the same, with sites that were proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from bitwright.engine.edits import Draft, absorbed, equalized, leveled, smoothed
from bitwright.graph.channels import Read
from bitwright.transforms import Moments, fold_norms
from conformance.networks import Toy, depthwise, evaluate, moved, normalized, plain, run, transformer


def draft_of(toy: Toy) -> tuple[Draft, dict[str, Tensor]]:
    network, constants, feeds = toy
    folded = fold_norms(network, constants)
    return Draft(network, constants, folded.moments).edited(folded.edit), feeds


def outputs(draft: Draft, feeds: Mapping[str, Tensor]) -> list[Tensor]:
    return run(draft.network, dict(draft.constants), feeds)


def spread(draft: Draft, name: str) -> float:
    """The largest over the smallest channel of a kernel, by outputs."""
    sizes = draft.constants[name].abs().flatten(1).amax(1)
    return float(sizes.max() / sizes.min())


def test_equalized_channels_compute_the_same_and_are_balanced() -> None:
    draft, feeds = draft_of(plain())
    weight = draft.network.nodes[0].inputs[1]
    uneven = torch.logspace(-1, 1, 8, dtype=torch.float64).reshape(-1, 1, 1, 1)
    draft = Draft(draft.network, {**draft.constants, weight: draft.constants[weight] * uneven})
    proposal = equalized(draft, feeds)
    (made,) = proposal.drafts
    assert moved(outputs(draft, feeds), outputs(made, feeds)) < 1e-10
    assert spread(made, weight) < 0.5 * spread(draft, weight)
    assert len(made.notes["sites"]) == 1 and proposal.refused == ()


def test_bounds_are_left_to_the_ranges_or_kept_for_each_channel() -> None:
    draft, feeds = draft_of(depthwise())
    free, exact = equalized(draft, feeds).drafts
    assert moved(outputs(draft, feeds), outputs(exact, feeds)) < 1e-10
    assert {"Min", "Clip"} & {node.op for node in exact.network.nodes}
    assert not {"Min", "Clip"} & {node.op for node in free.network.nodes} and free.notes["bounds_left_to_ranges"] >= 1


def test_a_constant_part_is_absorbed_where_normalizations_know_of_one() -> None:
    network, constants, feeds = normalized()
    folded = fold_norms(network, constants)
    draft = Draft(network, constants).edited(folded.edit)
    raised = {name: Moments(m.mean + 9 * m.deviation + 1, m.deviation) for name, m in folded.moments.items()}
    (made,) = absorbed(Draft(draft.network, draft.constants, raised), feeds).drafts
    assert made.notes["sites"] and all(entry["channels"] > 0 for entry in made.notes["sites"])
    unknown = absorbed(Draft(draft.network, draft.constants, {}), feeds)
    assert unknown.drafts == () and unknown.refused
    assert all("no BatchNormalization tells its mean" in text for text in unknown.refused)


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_smoothing_computes_the_same_and_takes_the_outliers_off(alpha: float) -> None:
    draft, feeds = draft_of(transformer())
    seen: dict[str, Tensor] = {}

    def largest(now: Draft, reads: Sequence[Read]) -> dict[str, Tensor]:
        values = evaluate(now.network.nodes, {**now.constants, **feeds}, [read.value for read in reads])
        seen.update({name: value.abs().reshape(-1, value.shape[-1]).amax(0) for name, value in values.items()})
        return seen

    (made,) = smoothed(draft, feeds, largest, (alpha,)).drafts
    assert moved(outputs(draft, feeds), outputs(made, feeds)) < 1e-10
    assert made.notes["alpha"] == alpha and len(made.notes["sites"]) >= 3


def test_where_nothing_can_be_scaled_nothing_is_proposed() -> None:
    network, constants, feeds = plain()
    one = Draft(network, {**constants}).edited(fold_norms(network, constants).edit)
    assert absorbed(one, feeds).drafts == ()


def test_levelling_computes_the_same_on_what_was_seen_and_makes_channels_alike() -> None:
    draft, feeds = draft_of(depthwise())
    kernel = draft.network.nodes[0].inputs[1]
    uneven = torch.logspace(-1, 0.3, 8, dtype=torch.float64).reshape(-1, 1, 1, 1)
    draft = Draft(draft.network, {**draft.constants, kernel: draft.constants[kernel] * uneven})

    def seen(now: Draft, names: Sequence[str]) -> dict[str, Tensor]:
        values = evaluate(now.network.nodes, {**now.constants, **feeds}, list(names))
        return {name: value.abs().amax((0, 2, 3)) for name, value in values.items()}

    proposal = leveled(draft, feeds, lambda now, reads: seen(now, [read.value for read in reads]))
    (made,) = proposal.drafts
    assert moved(outputs(draft, feeds), outputs(made, feeds)) < 1e-10
    assert [node.op for node in made.network.nodes] == [node.op for node in draft.network.nodes]
    assert len(made.notes["sites"]) == 1  # what the last, dense convolution reads stays
    (activation,) = draft.network.nodes[1].outputs
    before, after = (seen(one, [activation])[activation] for one in (draft, made))
    alive = before > before.max() / 64  # none is raised further
    assert float(after[alive].max() / after[alive].min()) < 1.5 + 1e-6  # what is near the largest stays
    assert float(before[alive].max() / before[alive].min()) > 2


def test_nothing_is_levelled_that_only_dense_weights_read() -> None:
    draft, feeds = draft_of(plain())
    proposal = leveled(draft, feeds, lambda now, reads: {})
    assert proposal.drafts == () and any("for free" in text for text in proposal.refused)
