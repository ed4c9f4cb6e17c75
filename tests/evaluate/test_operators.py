"""What ran in integers and why the rest did not, on graphs written by hand and on files that an engine really ran."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import ModelProto

from bitwright.evaluate.operators import Kind, Operator, causes, operators_of
from bitwright.execute.onnx_profile import Executed, executed
from evaluate.deliveries import edited, float_file, static

FLOAT = ("float",)


def ran(op: str, inputs: str, output: str, reads: tuple[str, ...] = FLOAT, makes: tuple[str, ...] = FLOAT) -> Executed:
    return Executed(output, op, tuple(inputs.split()), (output,), reads, makes, 1.0)


def dequantized(codes: str, output: str, kind: str = "uint8") -> Executed:
    return ran("DequantizeLinear", f"{codes} scale zero", output, (kind, "float", kind))


def quantized(value: str, output: str, kind: str = "uint8") -> Executed:
    return ran("QuantizeLinear", f"{value} scale zero", output, ("float", "float", kind), (kind,))


INPUT = [quantized("x", "x.codes"), dequantized("x.codes", "x.values")]
WEIGHT = [dequantized("w.codes", "w", "int8")]
CONV = [ran("Conv", "x.values w", "y")]


@pytest.mark.parametrize(
    ("nodes", "reason", "is_unfused"),
    [
        ([ran("Erf", "x", "y")], "ONNX Runtime has no integer Erf", False),
        ([ran("Conv", "x w", "y")], "nothing that it reads is quantized", False),
        ([*WEIGHT, ran("Conv", "x w", "y")], "only its weight is quantized", False),
        ([*INPUT, ran("FusedConv", "x.values w", "y")], "only its activation is quantized", False),
        ([*INPUT, ran("Add", "x.values b", "y")], "only part of what it reads is quantized: x.values", False),
        ([*INPUT, *WEIGHT, *CONV], "its output is not quantized", True),
        ([*INPUT, *WEIGHT, *CONV, quantized("y", "z")], "in a form that the engine lacks", True),
        ([*INPUT, *WEIGHT, *CONV, quantized("y", "z", "int8")], "their codes are int8 and uint8", True),
    ],
)
def test_a_float_operator_is_given_its_reason(nodes: list[Executed], reason: str, is_unfused: bool) -> None:
    (found,) = [one for one in operators_of(nodes) if one.name == "y"]
    assert found.kind is Kind.FLOAT and found.is_unfused == is_unfused
    assert reason in found.reason


def test_codes_that_the_engine_changed_on_one_side_only_are_told_by_the_types_of_the_file() -> None:
    nodes = [*INPUT, *WEIGHT, *CONV, quantized("y", "z", "int8")]
    for types, reason, is_signed in (
        ({"int8"}, "made only some of the file's int8 codes unsigned", True),
        ({"int8", "uint8"}, "quantize to one type", False),
        (set(), "quantize to one type", False),
    ):
        (found,) = [one for one in operators_of(nodes, frozenset(types)) if one.name == "y"]
        assert reason in found.reason and found.is_unfused
        assert found.is_signed == is_signed


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        (ran("QLinearConv", "x", "y", ("uint8",), ("uint8",)), Kind.INTEGER),
        (ran("MatMulIntegerToFloat", "x", "y", ("uint8",)), Kind.INTEGER),
        (ran("MatMulNBits", "x", "y"), Kind.INTEGER),
        (ran("MaxPool", "x", "y", ("uint8",), ("uint8",)), Kind.INTEGER),
        (ran("MaxPool", "x", "y"), Kind.FLOAT),
        (ran("Shape", "x", "y", FLOAT, ("int64",)), Kind.OTHER),
        (ran("Shape", "x", "y", ("uint8",), ("int64",)), Kind.OTHER),
        (ran("If", "x", "y", ("bool",)), Kind.OTHER),
        (ran("Cast", "x", "y", ("int64",)), Kind.FLOAT),
        (ran("Conv", "x", "y", (), ()), Kind.IDLE),
    ],
)
def test_an_operator_is_what_it_reads_and_makes(node: Executed, kind: Kind) -> None:
    assert operators_of([node])[0].kind is kind


def test_signed_codes_are_seen() -> None:
    made = [operators_of([ran("QLinearConv", "x", "y", (kind,), (kind,))])[0] for kind in ("int8", "uint8")]
    assert [one.is_signed for one in made] == [True, False]


def test_an_operator_in_a_subgraph_says_where_it_is() -> None:
    node = Executed("y", "Conv", ("x", "w"), ("y",), FLOAT, FLOAT, 1.0, inside="branch")
    assert operators_of([node])[0].reason == "inside the subgraph of branch; nothing that it reads is quantized"


def linear(kind: Kind, microseconds: float, is_unfused: bool = False) -> Operator:
    op = "QLinearConv" if kind is Kind.INTEGER else "Conv"
    return Operator("conv", op, kind, "", microseconds, is_linear=True, is_unfused=is_unfused)


@pytest.mark.parametrize(
    ("operators", "cause"),
    [
        ([linear(Kind.FLOAT, 5)], "no convolution or matrix product runs in integers"),
        (
            [linear(Kind.INTEGER, 5), linear(Kind.FLOAT, 1, True)],
            "1 of 2 convolutions and matrix products run in float",
        ),
        (
            [linear(Kind.INTEGER, 6), Operator("q", "QuantizeLinear", Kind.QUANTIZER, "", 4)],
            "40% of the time goes into q",
        ),
        ([linear(Kind.INTEGER, 20)], "take 0.02 ms, those of the float file 0.01 ms"),
        (
            [linear(Kind.INTEGER, 5), Operator("add", "QLinearAdd", Kind.INTEGER, "", 5)],
            "bound by memory (QLinearAdd add)",
        ),
    ],
)
def test_what_makes_a_file_slow_is_named(operators: list[Operator], cause: str) -> None:
    (found,) = causes(operators, [linear(Kind.FLOAT, 10)])
    assert cause in found


def test_a_file_that_is_fine_has_no_cause_to_be_slow() -> None:
    assert list(causes([linear(Kind.INTEGER, 5)], [linear(Kind.FLOAT, 10)])) == []


def test_a_convolution_whose_output_quantizer_is_taken_out_is_found_unfused_in_the_engine(tmp_path: Path) -> None:
    path, feeds = float_file("residual", tmp_path)
    whole = static(path, feeds)

    def take_out(model: ModelProto) -> None:
        (conv,) = [node for node in model.graph.node if node.name == "node_Conv_54"]
        (to,) = [node for node in model.graph.node if conv.output[0] in node.input]
        (back,) = [node for node in model.graph.node if to.output[0] in node.input]
        for node in model.graph.node:
            node.input[:] = [conv.output[0] if name == back.output[0] else name for name in node.input]
        model.graph.node.remove(to)
        model.graph.node.remove(back)

    before = operators_of(executed(whole, feeds[0]))
    after = operators_of(executed(edited(whole, "unfused.onnx", take_out), feeds[0]))
    assert not any(one.is_unfused for one in before)
    found = [one for one in after if one.is_unfused]
    assert [one.name for one in found] == ["node_Conv_54"]
    assert "its output is not quantized" in found[0].reason
