"""One run followed operator by operator: sums, casts, values that are the same, rows that a router moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bitwright.graph import Linear
from bitwright.graph.record import Record

WEIGHTS = {name: torch.randn(4, 4) for name in ("a", "b", "c")}


def record(run: Callable[[Tensor, Tensor, Tensor, Tensor], object]) -> dict[str, Linear]:
    """The linears that `run(stream, a, b, c)` shows, by name."""
    stream = torch.randn(2, 3, 4)
    watching = Record(WEIGHTS, stream)
    with torch.no_grad(), watching:
        run(stream, WEIGHTS["a"].mT, WEIGHTS["b"].mT, WEIGHTS["c"].mT)
    return {linear.view.name: linear for linear in watching.linears()}


def test_a_sum_with_the_stream_is_the_stream_again() -> None:
    found = record(lambda x, a, b, c: (x + x.sin() @ a) + x.cos() @ b)
    assert found["a"].writes_stream and found["b"].writes_stream


def test_either_side_and_in_place_sums_count() -> None:
    def run(x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> None:
        x = x.sin() @ a + x
        x += x.sin() @ b
        out = x.sin() @ c
        out += x

    assert all(linear.writes_stream for linear in record(run).values())


def test_what_is_changed_before_the_sum_does_not_write() -> None:
    found = record(lambda x, a, b, c: x + (x.sin() @ a) * 0.5 + torch.relu(x.cos() @ b))
    assert not found["a"].writes_stream and not found["b"].writes_stream


def test_a_sum_of_two_linears_does_not_write() -> None:
    found = record(lambda x, a, b, c: x + (x.sin() @ a + x.cos() @ b))
    assert not any(linear.writes_stream for linear in found.values())


def test_views_and_casts_are_the_same_numbers() -> None:
    found = record(lambda x, a, b, c: (x.reshape(6, 4) @ a, x.double().float() @ b, (x + 1) @ c))
    assert found["a"].source == found["b"].source != found["c"].source


def test_a_linear_hides_those_before_it() -> None:
    found = record(lambda x, a, b, c: torch.tanh(torch.tanh(x @ a) @ b) @ c)
    assert (found["a"].after, found["b"].after, found["c"].after) == ((), ("a",), ("b",))


def test_what_is_written_into_a_buffer_is_remembered() -> None:
    def run(x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> None:
        buffer = torch.zeros(2, 6, 4)
        buffer[:, :3] = x @ a
        buffer[:, 3:] = x @ b
        buffer @ c

    assert record(run)["c"].after == ("a", "b")


def test_a_cast_weight_is_still_that_weight() -> None:
    found = record(lambda x, a, b, c: x.double() @ WEIGHTS["a"].double().mT)
    assert found["a"].view.shape == (4, 4) and not found["a"].view.transposed


@pytest.mark.parametrize("choose", [lambda s: s.topk(1).indices[:, 0], lambda s: s.max(1).indices])
def test_a_ranked_linear_selects_and_rows_taken_by_it_are_routed(choose: Callable[[Tensor], Tensor]) -> None:
    def run(x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> None:
        flat = x.reshape(6, 4)
        chosen = choose(flat @ a)
        rows = flat.index_select(0, chosen) @ b
        torch.zeros_like(flat).index_add(0, chosen, rows) @ c

    found = record(run)
    assert found["a"].selects and not found["b"].selects
    assert (found["a"].routed, found["b"].routed, found["c"].routed) == (False, True, False)


def test_rows_taken_by_position_are_not_routed() -> None:
    found = record(lambda x, a, b, c: (x @ a)[:, torch.tensor([2, 0])] @ b)
    assert not found["b"].routed
