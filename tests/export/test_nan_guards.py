"""A guard behind a softmax reads one column, and keeps every bit, of hidden rows too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitwright.export.nan_guards import narrow_guards
from bitwright.export.proto_graph import ProtoGraph
from export.arranged import assert_same_bits, operators, rewritten, source_of


def graph(
    softmax: str = "<axis = -1>", rest: str = "out = Where(bad, zero, rows)", outputs: str = "float[B, T, S] out"
) -> str:
    nodes = f"rows = Softmax {softmax} (x) bad = IsNaN(rows) {rest}"
    return f"g (float[B, T, S] x) => ({outputs}) <float zero = {{0.0}}> {{ {nodes} }}"


def feeds() -> dict[str, np.ndarray]:
    """Rows that are hidden in part and as a whole, with NaN, with infinity, and very large ones."""
    x = np.random.default_rng(0).standard_normal((2, 8, 7)).astype(np.float32)
    x[0, 0] = -np.inf
    x[0, 1, 3:] = -np.inf
    x[0, 2, 5] = np.nan
    x[0, 3, 6] = np.inf
    x[0, 4] = np.inf
    x[1, 0] *= 1e38
    x[1, 1, 0] = np.nan
    x[1, 2, 0] = -np.inf
    return {"x": x}


@pytest.mark.parametrize(
    "text",
    [
        graph(),
        graph("<axis = 2>"),
        graph(""),
        graph(rest="out = Where(bad, rows, zero)"),
        graph(rest="some = Where(bad, zero, rows) more = Where(bad, rows, x) out = Sub(some, more)"),
    ],
    ids=["last", "by number", "by default", "the other way", "two choices"],
)
def test_the_guard_reads_one_column_and_chooses_the_same(tmp_path: Path, text: str) -> None:
    source = source_of(text, tmp_path)
    model = rewritten(source, narrow_guards)
    assert operators(model)["Slice"] == 1
    assert_same_bits(source, model, feeds())


def test_hidden_rows_are_among_what_is_tested() -> None:
    x = feeds()["x"]
    with np.errstate(all="ignore"):
        power = np.exp(x - x.max(-1, keepdims=True))
        rows = np.isnan(power / power.sum(-1, keepdims=True))
    assert rows.all(-1).sum() == 5
    assert (rows.any(-1) == rows.all(-1)).all()


@pytest.mark.parametrize(
    "text",
    [
        graph("<axis = 1>"),
        graph(rest="out = Where(bad, zero, x)"),
        graph(rest="n = Cast <to = 1> (bad) out = Add(n, rows)"),
        graph(rest="out = Where(bad, zero, rows)", outputs="float[B, T, S] out, bool[B, T, S] bad"),
        graph("<axis = -1>").replace("IsNaN(rows)", "IsNaN(x)"),
    ],
    ids=["another axis", "not its rows", "counted", "handed out", "not of a softmax"],
)
def test_all_else_stays(tmp_path: Path, text: str) -> None:
    source = source_of(text, tmp_path)
    assert rewritten(source, narrow_guards) == source.model()


def test_a_softmax_of_old_opsets_stays(tmp_path: Path) -> None:
    source = source_of(graph(), tmp_path, opset=18)
    model = source.model()
    model.opset_import[0].version = 12
    before = model.SerializeToString()
    narrow_guards(ProtoGraph(model, source))
    assert model.SerializeToString() == before
