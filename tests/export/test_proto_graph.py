"""What a graph says of its values: makers, readers in subgraphs too, numbers of constants that are still there."""

from __future__ import annotations

from pathlib import Path

import onnx

from bitwright.export.proto_graph import ProtoGraph, is_own, reads_of
from export.arranged import source_of

TEXT = """g (float[N] x, bool c) => (float[N] out, float[N] y)
    <float half = {0.5}, float[1] two = {2.0}, float[2] pair = {1.0, 2.0}> {
        y = Mul(x, half)
        z = Mul(y, two)
        w = If (c) <then_branch = t () => (float[N] a) { a = Neg(z) },
            else_branch = e () => (float[N] b) { b = Abs(z) }>
        out = Add(w, x)
    }"""


def graph(folder: Path) -> ProtoGraph:
    source = source_of(TEXT, folder)
    return ProtoGraph(source.model(), source)


def test_readers_are_found_in_subgraphs(tmp_path: Path) -> None:
    held = graph(tmp_path)
    assert [node.op_type for node in held.readers("z")] == ["If"]
    assert set(reads_of(held.readers("z")[0])) >= {"c", "z"}
    assert held.readers("out") == []


def test_an_only_reader_is_none_for_what_the_model_hands_out(tmp_path: Path) -> None:
    held = graph(tmp_path)
    assert [node.op_type for node in held.readers("y")] == ["Mul"]
    assert held.only_reader("y") is None
    assert held.only_reader("x") is None  # read twice
    found = held.only_reader("w")
    assert found is not None and is_own(found, "Add")


def test_numbers_of_constants(tmp_path: Path) -> None:
    held = graph(tmp_path)
    assert [held.number(name) for name in ("half", "two", "pair", "x", "missing")] == [0.5, 2.0, None, None, None]


def test_a_constant_whose_name_something_else_took_has_no_number(tmp_path: Path) -> None:
    source = source_of(TEXT, tmp_path)
    model = source.model()
    model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", ["codes", "scale"], ["half"]))
    assert ProtoGraph(model, source).number("half") is None
    assert ProtoGraph(model, source).number("two") == 2.0


def test_a_maker_is_told_by_operator_and_domain(tmp_path: Path) -> None:
    held = graph(tmp_path)
    assert held.made_by("y", "Mul") is not None
    assert held.made_by("y", "Add") is None
    assert held.made_by("x", "Mul") is None
    assert not is_own(onnx.helper.make_node("Mul", ["a", "b"], ["c"], domain="com.microsoft"), "Mul")


def test_new_nodes_and_names_keep_the_running_order(tmp_path: Path) -> None:
    held = graph(tmp_path)
    assert held.fresh("y") == "y_2"
    assert held.fresh("new") == "new"
    assert held.fresh("new") == "new_2"
    held.before(held.graph.node[1], onnx.helper.make_node("Neg", ["y"], ["minus"]))
    assert [node.op_type for node in held.graph.node] == ["Mul", "Neg", "Mul", "If", "Add"]
