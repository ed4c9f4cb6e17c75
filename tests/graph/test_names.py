"""Fresh names."""

from __future__ import annotations

from bitwright.graph.names import Names


def test_a_wanted_name_is_given_once_and_then_with_numbers() -> None:
    names = Names(["a", "b_2"])
    assert [names.fresh(wanted) for wanted in ("c", "c", "a", "b", "b", "c")] == ["c", "c_2", "a_2", "b", "b_3", "c_3"]
