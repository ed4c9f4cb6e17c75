"""Reading ONNX graphs: structure, shapes, subgraphs, and what is wrong with damaged ones."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from bitwright.graph.network import NetworkError, Opaque, Scalar, Value
from bitwright.graph.onnx import constants_of, inner_nodes, light_copy, network_of

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def model(text: str) -> onnx.ModelProto:
    return parser.parse_model(HEADER + text)


PLAIN = """
main (float[N, 3] x) => (float[N, 2] y)
<float[3, 2] w = {1, 2, 3, 4, 5, 6}>
{
    bias = Constant <value_floats: floats = [0.5, 1.5]> ()
    product = MatMul(x, w)
    sum = Add(product, bias)
    y = LeakyRelu <alpha: float = 0.25> (sum)
}
"""

BRANCHES = """
main (float[N, 3] x, bool c) => (float[N, 3] y)
<float[3] w = {1, 2, 3}>
{
    doubled = Add(x, x)
    y = If (c) <
        then_branch = yes () => (a) { inner = Mul(doubled, w)  a = Relu(inner) },
        else_branch = no () => (b) { b = Identity(x) }
    >
}
"""


def test_nodes_constants_and_attributes_are_read() -> None:
    network = network_of(model(PLAIN))
    assert [(node.op, node.inputs, node.outputs) for node in network.nodes] == [
        ("MatMul", ("x", "w"), ("product",)),
        ("Add", ("product", "bias"), ("sum",)),
        ("LeakyRelu", ("sum",), ("y",)),
    ]
    assert network.inputs == ("x",) and network.outputs == ("y",) and network.opset == 17
    assert network.constants == {"w", "bias"}
    assert network.nodes[2].attributes == {"alpha": 0.25}


def test_every_value_has_its_shape_and_type() -> None:
    values = network_of(model(PLAIN)).values
    assert values["x"] == Value("x", (None, 3), "float32")
    assert values["product"] == Value("product", (None, 2), "float32")
    assert values["sum"] == Value("sum", (None, 2), "float32")
    assert values["w"] == Value("w", (3, 2), "float32")
    assert values["bias"] == Value("bias", (2,), "float32")


def test_what_a_subgraph_reads_from_outside_is_captured() -> None:
    graph = model(BRANCHES)
    network = network_of(graph)
    branch = network.nodes[1]
    assert branch.captures == ("doubled", "w", "x")
    assert branch.attributes == {"then_branch": Opaque("graph"), "else_branch": Opaque("graph")}
    assert network.readers("doubled") == ((branch, -1),)
    assert [(node.op_type, owner) for node, owner in inner_nodes(graph)] == [
        ("Mul", branch.name),
        ("Relu", branch.name),
        ("Identity", branch.name),
    ]


def test_nodes_without_a_name_and_with_one_name_get_unique_names() -> None:
    graph = model(PLAIN)
    for node in graph.graph.node:
        node.name = "same"
    names = [node.name for node in network_of(graph).nodes]
    assert names == ["MatMul:product", "Add:sum", "LeakyRelu:y"]


def test_a_tensor_attribute_of_one_element_is_kept() -> None:
    text = """main (int64[2] s) => (float[A, B] y) { y = ConstantOfShape <value: tensor = float[1] {3.5}> (s) }"""
    assert network_of(model(text)).nodes[0].attributes == {"value": Scalar(3.5, "float32")}


def test_an_initializer_that_is_also_an_input_is_a_constant() -> None:
    graph = model(PLAIN)
    graph.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 2]))
    assert network_of(graph).inputs == ("x",)


def test_shapes_follow_from_shape_constants_and_large_weights_cost_nothing() -> None:
    text = """
    main (float[N, 64] x) => (float[A, B, C] y)
    <int64[3] shape = {-1, 8, 8}>
    { product = MatMul(x, w)  y = Reshape(product, shape) }
    """
    graph = model(text)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((64, 64), np.float32), "w"))
    assert network_of(graph).values["y"].shape == (None, 8, 8)
    light = light_copy(graph, constants_of(graph))
    assert [tensor.name for tensor in light.graph.initializer] == ["shape"]
    onnx.checker.check_model(light)


def test_a_custom_operator_leaves_its_output_unknown_unless_the_file_says_more() -> None:
    graph = model(PLAIN)
    graph.opset_import.append(helper.make_opsetid("own", 1))
    graph.graph.node[2].domain = "own"
    graph.graph.node[2].op_type = "Mystery"
    assert network_of(graph).values["sum"].dtype == "unknown"
    graph.graph.value_info.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["N", 2]))
    assert network_of(graph).values["sum"] == Value("sum", (None, 2), "float32")


def swap(graph: onnx.ModelProto) -> None:
    """Puts the second node last."""
    nodes = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([nodes[0], nodes[2], nodes[3], nodes[1]])


def circle(graph: onnx.ModelProto) -> None:
    graph.graph.node[1].input[0] = "sum"


def no_constant(graph: onnx.ModelProto) -> None:
    del graph.graph.initializer[:]


def two_makers(graph: onnx.ModelProto) -> None:
    graph.graph.node[2].output[0] = "product"


def no_output(graph: onnx.ModelProto) -> None:
    graph.graph.output[0].name = "z"


def no_opset(graph: onnx.ModelProto) -> None:
    del graph.opset_import[:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap, "stands before a node whose output it reads"),
        (circle, "cyclic: .*MatMul:product.*Add:sum|cyclic: .*Add:sum.*MatMul:product"),
        (no_constant, r"MatMul:product \(MatMul\) reads 'w'"),
        (two_makers, "product: made by Add:product and by MatMul:product"),
        (no_output, "z: an output of the model that no node makes"),
        (no_opset, "which opset"),
    ],
)
def test_a_damaged_graph_is_an_error_that_names_the_place(damage, message) -> None:
    graph = model(PLAIN)
    damage(graph)
    with pytest.raises(NetworkError, match=message):
        network_of(graph)


def test_a_subgraph_that_reads_what_is_not_there_is_an_error() -> None:
    graph = model(BRANCHES)
    graph.graph.node[1].attribute[0].g.node[0].input[1] = "nowhere"
    with pytest.raises(NetworkError, match="nowhere"):
        network_of(graph)


def test_sparse_initializers_are_refused() -> None:
    graph = model(PLAIN)
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("at", TensorProto.INT64, [1], [0])
    graph.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    with pytest.raises(NetworkError, match="sparse"):
        network_of(graph)
