"""Reductions against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from bitwright.execute.operators.reduction import REDUCTIONS
from execute.operators.single import Single, floats, ints, normal, number, positive

SUMS = "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSumExp ReduceSumSquare"
X = normal(2, 3, 4)
TIED = np.round(X)
CASES = [
    *(Single(op, [X, ints(1)]) for op in SUMS.split()),
    *(Single(op, [X, ints(0, -1)], {"keepdims": 0}) for op in SUMS.split()),
    *(Single(op, [X]) for op in SUMS.split()),
    Single("ReduceMean", [X], {"axes": [1, 2], "keepdims": 0}, opset=13),
    Single("ReduceMax", [X], {"axes": [-1]}, opset=13),
    Single("ReduceSum", [X, np.array([], dtype=np.int64)], {"noop_with_empty_axes": 1}),
    Single("ReduceSum", [ints(1, 2, 3)]),
    *(
        Single(op, [X], {"axis": axis, "keepdims": keep})
        for op in ("ArgMax", "ArgMin")
        for axis in (0, -1)
        for keep in (0, 1)
    ),
    Single("ArgMax", [floats(1, 3, 3, 2)], {"select_last_index": 1}),
    Single("CumSum", [X, number(1)]),
    Single("CumSum", [X, number(-1)], {"reverse": 1}),
    Single("CumSum", [X, number(1)], {"exclusive": 1}),
    Single("TopK", [X, ints(2)], outputs=2),
    Single("TopK", [TIED, ints(3)], {"axis": 1, "largest": 0}, outputs=2),
    Single("NonZero", [TIED]),
    Single("LpNormalization", [positive(2, 3)], {"p": 1, "axis": 0}),
    Single("LpNormalization", [X]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_gives_what_the_engine_gives(case: Single) -> None:
    case.check()


def test_every_operator_of_the_table_has_a_case() -> None:
    assert {case.op for case in CASES} == REDUCTIONS.keys()
