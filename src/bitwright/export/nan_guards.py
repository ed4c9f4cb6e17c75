"""A guard against NaN behind a softmax looks at one number of each row instead of all.

Exporters write attention whose masks may hide a whole row as softmax, IsNaN, Where. Every number of a row of a softmax
is divided by the same sum. That is NaN or zero, and then the whole row is NaN, or neither, and then none of it is: the
row's first number tells. IsNaN over all of attention and the choice by it cost a tenth of a small encoder's time.
"""

from __future__ import annotations

from onnx import NodeProto, helper

from bitwright.export.proto_graph import ProtoGraph, is_own

SOFTMAX = 13  # the opset since which a softmax runs along one axis, the last by default
COLUMN = {"start": 0, "end": 1, "axis": -1}


def narrow_guards(graph: ProtoGraph) -> None:
    """Let IsNaN read one column of a softmax over the last axis, where all that asks is Where over the same softmax."""
    if graph.opset < SOFTMAX:
        return
    ends: list[str] = []
    for node in [node for node in graph.graph.node if is_own(node, "IsNaN")]:
        rows = node.input[0]
        softmax = graph.made_by(rows, "Softmax")
        if softmax is None or not _is_over_last(graph, softmax) or not _only_chooses(graph, node.output[0], rows):
            continue
        ends = ends or [graph.index("softmax." + name, number) for name, number in COLUMN.items()]
        first = graph.fresh(f"{rows}.first")
        graph.before(node, helper.make_node("Slice", [rows, *ends], [first], graph.fresh(f"{first}.slice")))
        node.input[0] = first


def _is_over_last(graph: ProtoGraph, softmax: NodeProto) -> bool:
    axis = next((int(one.i) for one in softmax.attribute if one.name == "axis"), -1)
    rank = graph.rank(softmax.output[0])
    return rank is not None and rank > 0 and axis in (-1, rank - 1)


def _only_chooses(graph: ProtoGraph, is_nan: str, rows: str) -> bool:
    """Whether nothing but Where reads the guard, each time to choose between these rows and something else."""
    readers = graph.readers(is_nan)
    return not graph.is_output(is_nan) and all(
        is_own(node, "Where") and node.input[0] == is_nan and rows in node.input[1:] for node in readers
    )
