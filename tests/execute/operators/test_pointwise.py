"""Pointwise operators against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from bitwright.execute.operators.pointwise import MICROSOFT, POINTWISE
from execute.operators.single import Single, floats, ints, normal, number, positive

ONE = (
    "Relu Sigmoid Tanh Erf Exp Abs Neg Sin Cos Tan Atan Sinh Cosh Floor Ceil Round Sign Softplus Softsign Mish"
    " HardSwish Identity"
)
POSITIVE = "Log Sqrt Reciprocal"
TWO = "Add Sub Mul Div Max Min PRelu"
COMPARED = "Equal Less LessOrEqual Greater GreaterOrEqual"
X, TRUTH = normal(2, 3, 4) * 3, normal(2, 3) > 0
CASES = [
    *(Single(op, [X]) for op in ONE.split()),
    *(Single(op, [positive(2, 3)]) for op in POSITIVE.split()),
    *(Single(op, [X, normal(3, 1)]) for op in TWO.split()),
    *(Single(op, [np.round(X), np.round(normal(3, 4))]) for op in COMPARED.split()),
    *(Single(op, [TRUTH, ~TRUTH[:1]]) for op in ("And", "Or", "Xor")),
    Single("Not", [TRUTH]),
    Single("Round", [floats(0.5, 1.5, 2.5, -0.5, -1.5)]),
    Single("Pow", [positive(2, 3), normal(2, 3)]),
    Single("Pow", [normal(2, 3), number(2)]),
    Single("Pow", [ints(2, 3), floats(2.0, 3.0)]),
    Single("Div", [ints(7, -7, 5), ints(2, 2, -3)]),
    Single("Mod", [ints(7, -7, 5), ints(3, 3, -3)]),
    Single("Mod", [floats(7.5, -7.5), floats(2, 2)], {"fmod": 1}),
    Single("Max", [X, normal(3, 4), normal(1)]),
    Single("Min", [X, normal(3, 4), normal(1)]),
    Single("Sum", [X, normal(3, 4), normal(1)]),
    Single("Mean", [X, normal(3, 4), normal(1)]),
    Single("LeakyRelu", [X]),
    Single("LeakyRelu", [X], {"alpha": 0.3}),
    Single("Elu", [X], {"alpha": 0.7}),
    Single("Celu", [X], {"alpha": 0.7}),
    Single("Selu", [X]),
    Single("ThresholdedRelu", [X], {"alpha": 0.5}),
    Single("HardSigmoid", [X]),
    Single("HardSigmoid", [X], {"alpha": 1 / 6, "beta": 0.5}),
    Single("Clip", [X, number(0.0), number(6.0)]),
    Single("Clip", [X, None, number(1.0)]),
    Single("Clip", [X, number(-1.0)]),
    Single("Clip", [X]),
    Single("Gelu", [X], opset=20),
    Single("Gelu", [X], {"approximate": "tanh"}, opset=20),
    Single("Gelu", [X], domain="com.microsoft"),
    Single("FastGelu", [X], domain="com.microsoft"),
    Single("QuickGelu", [X], {"alpha": 1.702}, domain="com.microsoft"),
    *(Single(op, [X], {"axis": axis}) for op in ("Softmax", "LogSoftmax") for axis in (-1, 0, 1)),
    Single("Softmax", [X]),
    *(Single("Cast", [X * 10], {"to": to}) for to in (1, 6, 7, 9, 10, 11)),
    Single("Cast", [ints(1, 0, 5)], {"to": 1}),
    Single("CastLike", [X * 10, ints(1)]),
    Single("Where", [TRUTH, normal(2, 3), normal(1)]),
    Single("Dropout", [X]),
    Single("IsNaN", [floats(1, np.nan)]),
    Single("IsInf", [floats(1, np.inf, -np.inf)]),
    Single("IsInf", [floats(1, np.inf, -np.inf)], {"detect_negative": 0}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_gives_what_the_engine_gives(case: Single) -> None:
    case.check()


def test_every_operator_of_the_table_has_a_case() -> None:
    seen = {(case.domain, case.op) for case in CASES}
    # ONNX Runtime has no kernel yet for the newest of them
    assert {("", op) for op in POINTWISE} - seen == {("", "Swish")}
    assert {("com.microsoft", op) for op in MICROSOFT} <= seen


def test_swish_is_the_sigmoid_times_its_input() -> None:
    x = normal(2, 3)
    found = Single("Swish", [x], {"alpha": 1.5}, opset=24).interpreted()[0]
    np.testing.assert_allclose(found, x / (1 + np.exp(-1.5 * x)), rtol=1e-5)
