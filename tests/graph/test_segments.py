"""Segments cover a network, hand on what is read, and follow its blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.network import Network, Node, Value
from bitwright.graph.segments import Segment, segments
from networks import NETWORKS, exported, network, sample

LINEAR = ("Conv", "Gemm", "MatMul", "ConvTranspose")


def weighted(graph: Network) -> set[str]:
    return {node.name for node in graph.nodes if node.op in LINEAR}


def chain(*nodes: tuple[str, str, tuple[str, ...], str]) -> Network:
    """A network of nodes (name, operator, what they read, what they make), from `x` to the last value."""
    made = tuple(Node(name, op, reads, (makes,)) for name, op, reads, makes in nodes)
    values = {n: Value(n, (None, 4), "float32") for node in made for n in (*node.inputs, *node.outputs)}
    return Network(made, ("x",), (made[-1].outputs[0],), frozenset({"w"}), values, 18)


def names(found: tuple[Segment, ...]) -> list[str]:
    return ["".join(node.name for node in part.nodes) for part in found]


BLOCKS = chain(
    ("a", "Conv", ("x", "w"), "1"),
    ("b", "Conv", ("1", "w"), "2"),
    ("c", "Relu", ("2",), "3"),
    ("d", "Conv", ("3", "w"), "4"),
    ("e", "Add", ("4", "1"), "5"),
    ("f", "Conv", ("5", "w"), "6"),
    ("g", "Conv", ("6", "w"), "7"),
    ("h", "Add", ("7", "5"), "8"),
)


def test_a_residual_block_is_not_cut() -> None:
    assert names(segments(BLOCKS, weighted(BLOCKS), most=6)) == ["abcde", "fgh"]


def test_at_most_so_many_weights_where_there_are_places_to_cut() -> None:
    assert names(segments(BLOCKS, weighted(BLOCKS), most=1)) == ["a", "bc", "de", "f", "gh"]


def test_a_value_that_skips_a_segment_is_read_by_a_later_one() -> None:
    found = segments(BLOCKS, weighted(BLOCKS), most=1)
    assert [part.reads for part in found] == [("x",), ("1",), ("3", "1"), ("5",), ("6", "5")]
    assert [part.makes for part in found] == [("1",), ("3",), ("5",), ("6",), ("8",)]


def test_operators_without_weights_go_with_the_one_before_and_the_first_ones_with_the_next() -> None:
    graph = chain(("a", "Relu", ("x",), "1"), ("b", "Conv", ("1", "w"), "2"), ("c", "Relu", ("2",), "3"))
    assert names(segments(graph, {"b"})) == ["abc"]


def test_a_network_without_nodes_has_no_segments() -> None:
    assert segments(Network((), ("x",), ("x",), frozenset(), {}, 18), set()) == ()


@pytest.mark.parametrize("most", [1, 6])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_after_the_other_they_are_the_network(name: str, most: int, tmp_path: Path) -> None:
    module = network(name)
    runner = OnnxRunner(exported(module, tmp_path), exact=True)
    live = dict(zip(runner.network.inputs, sample(module, 3, 1), strict=True))
    wanted = runner.run(live)
    parts = segments(runner.network, weighted(runner.network), most)
    assert [node for part in parts for node in part.nodes] == list(runner.network.nodes)
    for part in parts:
        live |= runner.run({value: live[value] for value in part.reads}, part.makes)
    for output, value in wanted.items():
        torch.testing.assert_close(live[output], value, rtol=1e-4, atol=1e-5)
