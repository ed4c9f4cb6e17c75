"""Files for inputs of one value or size: they compute what the model computes there, and hold no branch of others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from bitwright.store.onnx_source import OnnxSource
from bitwright.store.onnx_specialize import Specialized, specialize
from bitwright.store.source_error import SourceError

RATE = "c = Equal (rate, high)"
HEAD = '<ir_version: 8, opset_import: ["" : 17]> main (float[N, 4] x, int64 rate) => (float[N, 4] y)'
WEIGHTS = "<float[4] a = {1, 2, 3, 4}, float[4] b = {5, 6, 7, 8}, int64 high = {16000}>"


def body(then: str, other: str, first: str = RATE, condition: str = "c", last: str = "") -> str:
    names = f"then_branch = one () => (float[N, 4] p) {then}, else_branch = two () => (float[N, 4] p) {other}"
    return f"{HEAD} {WEIGHTS} {{ {first} y = If ({condition}) <{names}> {last} }}"


def run(path: Path, feeds: Mapping[str, Any]) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))[0]


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node if node.op_type != "Constant"]


def specialized(tmp_path: Path, text: str, rate: int = 16000, **shapes: tuple[int, ...]) -> Specialized:
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    return specialize(tmp_path / "m.onnx", tmp_path / "out.onnx", {"rate": rate}, shapes)


FORMS = {
    "plain": ("{ p = Mul (x, a) }", "{ p = Add (x, b) }"),
    "two steps": ("{ s = Mul (x, a) p = Relu (s) }", "{ s = Add (x, b) p = Neg (s) }"),
    "constants of its own": (
        "<float[4] k = {9, 8, 7, 6}> { p = Mul (x, k) }",
        "{ k = Constant <value: tensor = float[4] {1, 1, 2, 2}> () p = Add (x, k) }",
    ),
    "a value from outside": ("{ p = Identity (x) }", "{ s = Add (x, b) p = Identity (s) }"),
    "a branch in a branch": (
        """{ d = Less (rate, high) p = If (d) <then_branch = three () => (float[N, 4] q) { q = Sub (x, a) },
             else_branch = four () => (float[N, 4] q) { s = Mul (x, b) q = Add (s, a) }> }""",
        "{ p = Add (x, b) }",
    ),
}


@pytest.mark.parametrize("rate", [16000, 8000])
@pytest.mark.parametrize("form", FORMS)
def test_one_branch_is_left_and_computes_the_same(form: str, rate: int, tmp_path: Path) -> None:
    found = specialized(tmp_path, body(*FORMS[form]), rate)
    assert found.doubt is None and not found.left
    assert found.taken[0] == ("y", "then" if rate == 16000 else "else")
    assert "If" not in operators(tmp_path / "out.onnx") and "Equal" not in operators(tmp_path / "out.onnx")
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    feeds = {"x": x, "rate": np.array(rate)}
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", feeds), run(tmp_path / "m.onnx", feeds))


def test_branches_that_use_the_same_names_do_not_meet(tmp_path: Path) -> None:
    one, two = "{ s = Mul (x, a) p = Relu (s) }", "{ s = Add (x, b) p = Neg (s) }"
    again = one.replace("x", "w"), two.replace("x", "w")
    branches = [
        f"If (c) <then_branch = one () => (float[N, 4] p) {then}, else_branch = two () => (float[N, 4] p) {other}>"
        for then, other in ((one, two), again)
    ]
    specialized(tmp_path, f"{HEAD} {WEIGHTS} {{ {RATE} w = {branches[0]} y = {branches[1]} }}")
    assert operators(tmp_path / "out.onnx") == ["Mul", "Relu", "Mul", "Relu"]
    feeds = {"x": np.ones((1, 4), np.float32), "rate": np.array(16000)}
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", feeds), [[1, 4, 9, 16]])


def test_a_branch_may_hand_out_one_value_twice_and_a_constant(tmp_path: Path) -> None:
    outputs = "(float[N, 4] p, float[N, 4] p, float[4] k)"
    then = f"one () => {outputs} <float[4] k = {{9, 8, 7, 6}}> {{ p = Mul (x, a) }}"
    other = "two () => (float[N, 4] q, float[N, 4] r, float[4] k) { q = Neg (x) r = Abs (x) k = Identity (b) }"
    steps = f"u, v, w = If (c) <then_branch = {then}, else_branch = {other}> t = Add (u, v) y = Add (t, w)"
    specialized(tmp_path, f"{HEAD} {WEIGHTS} {{ {RATE} {steps} }}")
    feeds = {"x": np.ones((1, 4), np.float32), "rate": np.array(16000)}
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", feeds), [[11, 12, 13, 14]])


def test_constants_of_the_other_branch_go(tmp_path: Path) -> None:
    specialized(tmp_path, body(*FORMS["plain"]))
    assert [tensor.name for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer] == ["a"]


def test_the_file_takes_the_same_inputs_and_does_not_look_at_the_one_of_a_known_value(tmp_path: Path) -> None:
    specialized(tmp_path, body(*FORMS["plain"]))
    x = np.ones((2, 4), np.float32)
    high, low = (run(tmp_path / "out.onnx", {"x": x, "rate": np.array(rate)}) for rate in (16000, 8000))
    np.testing.assert_array_equal(high, low)


def test_a_condition_may_be_computed_in_steps(tmp_path: Path) -> None:
    first = "f = Cast <to: int = 1> (rate) g = Cast <to: int = 1> (high) h = Sub (f, g) d = Abs (h) z = Sub (g, g)"
    found = specialized(tmp_path, body(*FORMS["plain"], first=f"{first} c = Equal (d, z)"))
    assert found.taken == (("y", "then"),) and operators(tmp_path / "out.onnx") == ["Mul"]


SIZE = "s = Shape (x) i = Constant <value: tensor = int64 {0}> () n = Gather (s, i) two = Div (high, high)"


@pytest.mark.parametrize(("rows", "branch"), [(1, "then"), (3, "else")])
def test_sizes_decide_where_they_are_known(rows: int, branch: str, tmp_path: Path) -> None:
    text = body(*FORMS["plain"], first=f"{SIZE} c = Equal (n, two)")
    assert specialized(tmp_path, text).left and "If" in operators(tmp_path / "out.onnx")
    found = specialized(tmp_path, text, x=(rows, 4))
    assert found.taken == (("y", branch),) and not found.left and found.doubt is None
    x = np.random.default_rng(1).standard_normal((rows, 4)).astype(np.float32)
    feeds = {"x": x, "rate": np.array(16000)}
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", feeds), run(tmp_path / "m.onnx", feeds))


def test_a_number_that_floats_only_come_near_to_is_a_value(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> main (float[2] x, float k) => (float[2] y) { y = Mul (x, k) }'
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    assert specialize(tmp_path / "m.onnx", tmp_path / "out.onnx", {"k": 0.1}).doubt is None
    feeds = {"x": np.array([1, 2], np.float32), "k": np.array(9, np.float32)}
    np.testing.assert_allclose(run(tmp_path / "out.onnx", feeds), [0.1, 0.2], rtol=1e-6)


def test_what_depends_on_other_inputs_is_left(tmp_path: Path) -> None:
    first = "m = ReduceMax <keepdims: int = 0> (x) z = Sub (m, m) c = Greater (m, z)"
    found = specialized(tmp_path, body(*FORMS["plain"], first=first))
    assert not found.taken and len(found.left) == 1 and operators(tmp_path / "out.onnx")[-1] == "If"


def test_values_read_inside_branches_that_are_left_are_known_there_too(tmp_path: Path) -> None:
    inner = "{ f = Cast <to: int = 1> (rate) p = Add (x, f) }"
    first = "m = ReduceMax <keepdims: int = 0> (x) z = Sub (m, m) c = Greater (m, z)"
    specialized(tmp_path, body(inner, inner, first=first))
    x = np.ones((2, 4), np.float32)
    assert float(run(tmp_path / "out.onnx", {"x": x, "rate": np.array(1)})[0, 0]) == 16001


def test_no_number_is_drawn_beforehand(tmp_path: Path) -> None:
    first = "r = RandomUniformLike (rate) <> f = Cast <to: int = 7> (r) c = Equal (f, high)"
    text = body(*FORMS["plain"], first=first.replace("(rate) <>", "<dtype: int = 1> (rate)"))
    assert len(specialized(tmp_path, text).left) == 1


@pytest.mark.parametrize(
    ("values", "shapes", "words"),
    [
        ({"speed": 1}, {}, "speed: the model has no input of this name; it has x, rate"),
        ({"a": 1}, {}, "a: the model has no input of this name"),
        ({"rate": 0.5}, {}, "rate: holds int64, which cannot be 0.5"),
        ({"x": 1.0}, {}, "x: only an input of known, few elements"),
        ({}, {"x": (2, 5)}, r"x: cannot have the sizes \(2, 5\); the model takes \?x4"),
        ({}, {"x": (2,)}, r"x: cannot have the sizes \(2,\)"),
        ({}, {"x": (-1, 4)}, r"x: cannot have the sizes \(-1, 4\)"),
    ],
)
def test_what_an_input_cannot_be_is_refused(
    values: dict[str, Any], shapes: dict[str, tuple[int, ...]], words: str, tmp_path: Path
) -> None:
    onnx.save(parser.parse_model(body(*FORMS["plain"])), tmp_path / "m.onnx")
    with pytest.raises(SourceError, match=words):
        specialize(tmp_path / "m.onnx", tmp_path / "out.onnx", values, shapes)
    assert not (tmp_path / "out.onnx").exists()


def test_the_model_itself_is_not_written_over(tmp_path: Path) -> None:
    onnx.save(parser.parse_model(body(*FORMS["plain"])), tmp_path / "m.onnx")
    with pytest.raises(SourceError, match="the model itself"):
        specialize(tmp_path / "m.onnx", tmp_path / "m.onnx", {"rate": 1})


def test_a_voice_detector_for_one_length_has_no_branches(zoo: Path, tmp_path: Path) -> None:
    path = zoo / "models" / "silero_vad_16k_op15.onnx"
    sizes = {"input": (1, 576), "state": (2, 1, 128)}
    rates = {"sr": 16000} if "sr" in OnnxSource.open(path).network().inputs else {}
    found = specialize(path, tmp_path / "out.onnx", rates, sizes)
    assert found.taken and not found.left and found.doubt is None
