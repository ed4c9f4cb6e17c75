"""Operators that move numbers, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bitwright.execute.interpret import UnsupportedOperator
from bitwright.execute.operators.movement import MOVEMENT
from execute.operators.single import Single, floats, ints, normal, number

X, IMAGE = normal(2, 3, 4), normal(2, 8, 4, 6)
FAR = 2**63 - 1
CASES = [
    Single("Reshape", [X, ints(0, -1)]),
    Single("Reshape", [X, ints(4, 6)]),
    Single("Transpose", [X]),
    Single("Transpose", [X], {"perm": [1, 0, 2]}),
    Single("Concat", [X, normal(2, 1, 4)], {"axis": 1}),
    Single("Concat", [X, X, X], {"axis": -1}),
    Single("Split", [X, ints(1, 2)], {"axis": 1}, outputs=2),
    Single("Split", [X], {"axis": -1}, opset=13, outputs=2),
    Single("Split", [normal(7, 2)], {"num_outputs": 3}, outputs=3),
    Single("Slice", [X, ints(1), ints(FAR), ints(1)]),
    Single("Slice", [X, ints(0, -3), ints(1, -1)]),
    Single("Slice", [X, ints(-1), ints(-FAR), ints(2), ints(-1)]),
    Single("Slice", [X, ints(3, 0), ints(0, 3), ints(2, 1), ints(-2, 2)]),
    Single("Slice", [X, ints(5), ints(9), ints(2)]),
    Single("Gather", [X, ints(1, -1, 0)], {"axis": 1}),
    Single("Gather", [X, np.array([[0, 1], [1, 0]])]),
    Single("Gather", [X, number(-1)], {"axis": 2}),
    Single("Gather", [ints(3, 5, 7), number(1)]),
    Single("GatherElements", [X, np.array([[[0, 1, -1, 2]]])], {"axis": 1}),
    Single("GatherND", [X, np.array([[0, 1], [1, -1]])]),
    Single("ScatterND", [X, np.array([[0, 1], [1, 2]]), normal(2, 4)]),
    Single("ScatterElements", [X, np.array([[[0, 2, -1, 2]]]), normal(1, 1, 4)], {"axis": 1}),
    Single("Pad", [IMAGE, ints(0, 1, 2, 0, 0, 0, 1, 3), number(1.5)]),
    Single("Pad", [IMAGE, ints(0, 0, -1, 0, 0, 0, 2, -2)]),
    Single("Pad", [IMAGE, ints(2, 1, 1, 0), number(0.5), ints(3, -2)]),
    *(Single("Pad", [IMAGE, ints(0, 0, 2, 3, 0, 0, 1, 3)], {"mode": mode}) for mode in ("reflect", "edge")),
    Single("Pad", [IMAGE, ints(0, 0, 2, 3, 0, 0, 1, 3)], {"mode": "wrap"}, opset=19),
    Single("Expand", [normal(3, 1), ints(2, 1, 4)]),
    Single("Expand", [normal(2, 3, 4), ints(1)]),
    Single("Unsqueeze", [X, ints(0, -1)]),
    Single("Unsqueeze", [X, ints(2)]),
    Single("Squeeze", [normal(1, 3, 1, 2), ints(-2)]),
    Single("Squeeze", [normal(1, 3, 1, 2)]),
    *(Single("Flatten", [IMAGE], {"axis": axis}) for axis in (0, 1, 2, 4, -1)),
    Single("Flatten", [IMAGE]),
    Single("Shape", [IMAGE]),
    Single("Shape", [IMAGE], {"start": 1, "end": -1}),
    Single("Size", [IMAGE]),
    Single("ConstantOfShape", [ints(2, 3)]),
    Single("ConstantOfShape", [ints(2)], {"value": onnx.numpy_helper.from_array(ints(7))}),
    Single("Range", [number(1), number(10), number(3)]),
    Single("Range", [number(0.5), number(3.0), number(0.5)]),
    Single("Tile", [X, ints(1, 2, 3)]),
    *(Single("DepthToSpace", [IMAGE], {"blocksize": 2, "mode": mode}) for mode in ("DCR", "CRD")),
    Single("SpaceToDepth", [IMAGE], {"blocksize": 2}),
    Single("Trilu", [normal(4, 5)]),
    Single("Trilu", [normal(2, 4, 4), number(1)], {"upper": 0}),
    Single("EyeLike", [normal(3, 4)]),
    Single("EyeLike", [normal(3, 4)], {"k": -1, "dtype": 7}),
    Single("OneHot", [ints(0, 2, -1), number(3), floats(0.5, 2.0)]),
    Single("OneHot", [np.array([[0, 1]]), number(3), floats(0, 1)], {"axis": 1}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_gives_what_the_engine_gives(case: Single) -> None:
    case.check()


def test_every_operator_of_the_table_has_a_case() -> None:
    assert {case.op for case in CASES} == MOVEMENT.keys()


@pytest.mark.parametrize(
    "case",
    [
        Single("ScatterND", [X, np.array([[0, 1]]), normal(1, 4)], {"reduction": "add"}),
        Single("GatherND", [X, np.array([[0], [1]])], {"batch_dims": 1}),
    ],
    ids=str,
)
def test_a_rare_form_is_refused_by_name(case: Single) -> None:
    with pytest.raises(UnsupportedOperator, match=case.op):
        case.interpreted()
