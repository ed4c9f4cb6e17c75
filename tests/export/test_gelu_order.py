"""GELU gets the order that becomes one operator, and keeps every bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitwright.export.gelu_order import order_gelu
from export.arranged import assert_same_bits, operators, optimised, rewritten, source_of

CONSTANTS = "<float root = {1.4142135}, float one = {1.0}, float half = {0.5}>"
CURVE = "part = Div(x, root) error = Erf(part) curve = Add(error, one)"


def graph(rest: str, outputs: str = "float[N, 6] out", constants: str = CONSTANTS) -> str:
    return f"g (float[N, 6] x) => ({outputs}) {constants} {{ {CURVE} {rest} }}"


HALVED_CURVE = graph("less = Mul(half, curve) out = Mul(x, less)")
SWAPPED = graph("less = Mul(curve, half) out = Mul(less, x)")


def feeds() -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    x[0] = [0.0, -0.0, 1e-30, 1e30, -np.inf, np.nan]
    x[1] = [np.inf, -1e30, 40.0, -40.0, -1e-30, 1.0]
    return {"x": x}


@pytest.mark.parametrize("text", [HALVED_CURVE, SWAPPED])
def test_half_of_the_curve_becomes_half_of_the_product_with_the_same_bits(tmp_path: Path, text: str) -> None:
    source = source_of(text, tmp_path)
    model = rewritten(source, order_gelu)
    assert model != source.model()
    assert_same_bits(source, model, feeds())


def test_the_engine_makes_one_operator_of_it(tmp_path: Path) -> None:
    source = source_of(HALVED_CURVE, tmp_path)
    assert optimised(source.model(), tmp_path)["Gelu"] == 0
    assert optimised(rewritten(source, order_gelu), tmp_path) == {"Gelu": 1}


@pytest.mark.parametrize(
    "text",
    [
        graph("less = Mul(half, curve) out = Mul(x, less)", "float[N, 6] out, float[N, 6] less"),
        graph("less = Mul(half, curve) some = Mul(x, less) out = Add(some, less)"),
        graph("less = Mul(half, curve) out = Mul(x, less)", constants=CONSTANTS.replace("0.5", "0.3")),
        graph("less = Mul(half, curve) out = Mul(x, less)", constants=CONSTANTS.replace("{1.0}", "{2.0}")),
        graph("less = Mul(half, x) out = Mul(less, curve)"),
        graph("less = Mul(half, curve) out = Mul(less, less)"),
        graph("out = Mul(curve, curve)"),
    ],
    ids=["handed out", "read twice", "no half", "no one", "another order", "squared", "no product"],
)
def test_all_else_stays(tmp_path: Path, text: str) -> None:
    source = source_of(text, tmp_path)
    assert rewritten(source, order_gelu) == source.model()


def test_an_order_that_the_engine_knows_is_joined_as_it_is(tmp_path: Path) -> None:
    for place, rest in enumerate(
        ("less = Mul(half, x) out = Mul(less, curve)", "f = Mul(x, curve) out = Mul(f, half)")
    ):
        folder = tmp_path / str(place)
        folder.mkdir()
        assert optimised(source_of(graph(rest), folder).model(), folder)["Gelu"] == 1


def test_names_of_outputs_stay(tmp_path: Path) -> None:
    model = rewritten(source_of(HALVED_CURVE, tmp_path), order_gelu)
    assert [node.output[0] for node in model.graph.node][-2:] == ["out.twice", "out"]
    assert operators(model)["Mul"] == 2
