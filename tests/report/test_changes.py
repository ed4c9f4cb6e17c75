"""Which three changes are proposed."""

from __future__ import annotations

import pytest

from bitwright.report.changes import Action, best_changes, kind_of
from bitwright.report.records import Alternative, Storage, Weight

BITS = 8_000_000.0


def weight(name: str, loss: float, saved: float, added: float = BITS / 4, halved: float = 0.0) -> Weight:
    """A weight that saves `saved` of its loss for `added` bits at one bit more, and `halved` at half the group."""
    return Weight(
        name=name,
        block=None,
        shape=(),
        spec="",
        storage=Storage(BITS, BITS, 0.0, 0.0),
        solver="",
        chosen="",
        sqnr_db=None,
        loss=loss,
        loss_nearest=None,
        one_bit_more=Alternative(loss - saved, BITS + added),
        half_group=Alternative(loss - halved, BITS + added / 8),
        notes=(),
        histogram=None,
        inputs=None,
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.0.mlp.down_proj", "model.layers.*.mlp.down_proj"),
        ("h.11.experts.3.w2", "h.*.experts.*.w2"),
        ("0.conv1", "*.conv1"),
        ("stage2.conv1", "stage2.conv1"),
    ],
)
def test_a_kind_is_the_name_without_its_indices(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_a_kind_is_proposed_as_a_whole_where_its_blocks_are_alike() -> None:
    weights = tuple(weight(f"l.{i}.{kind}", 1.0, 0.7) for i in range(50) for kind in ("a", "b"))
    found = best_changes(weights)
    assert [change.pattern for change in found] == ["l.*.a", "l.*.b"]
    assert found[0].weights == tuple(f"l.{i}.a" for i in range(50))


def test_an_outlier_is_proposed_alone_and_then_left_out_of_its_kind() -> None:
    weights = tuple(weight(f"l.{i}.a", 60.0 if i == 7 else 1.0, 40.0 if i == 7 else 0.7) for i in range(50))
    first, second = best_changes(weights)
    assert first.weights == ("l.7.a",) and first.pattern == "l.7.a"
    assert second.pattern == "l.*.a" and "l.7.a" not in second.weights and len(second.weights) == 49


def test_savings_and_bytes_are_sums_over_the_weights() -> None:
    (found,) = best_changes((weight("l.0.a", 2.0, 1.5), weight("l.1.a", 3.0, 1.5)), count=1)
    assert found.share == pytest.approx(3.0 / 5.0)
    assert found.bytes == 2 * BITS / 4 / 8
    assert (found.loss_now, found.loss_after) == (5.0, 2.0)


def test_of_two_that_save_the_same_the_cheaper_wins() -> None:
    found = best_changes((weight("dear", 1.0, 0.5, added=BITS), weight("cheap", 1.0, 0.5, added=BITS / 8)))
    assert [change.pattern for change in found] == ["cheap", "dear"]


def test_a_free_change_that_saves_nothing_worth_does_not_win() -> None:
    found = best_changes((weight("tiny", 0.001, 0.001, added=8.0), weight("large", 1.0, 0.5)))
    assert found[0].pattern == "large"


def test_half_the_group_is_proposed_where_it_buys_more() -> None:
    (found,) = best_changes((weight("a", 1.0, 0.3, halved=0.6),))
    assert found.action is Action.HALF_GROUP and found.share == pytest.approx(0.6)


def test_changes_exclude_each_others_weights() -> None:
    weights = tuple(weight(f"l.{i}.{kind}", 1.0 + i, 0.5, halved=0.2) for i in range(9) for kind in "abcd")
    taken = [name for change in best_changes(weights) for name in change.weights]
    assert len(taken) == len(set(taken))


def test_nothing_is_proposed_where_nothing_saves_or_nothing_is_known() -> None:
    assert best_changes(()) == ()
    assert best_changes((weight("a", 1.0, -0.5),)) == ()
    assert best_changes((weight("a", 0.0, 0.0),)) == ()
