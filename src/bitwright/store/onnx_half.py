"""Lets a model that is stored and computed in float16 be computed in float32, which is what can be quantized.

The stored weights stay as they are, behind a Cast each, so that none has to be read here; whoever computes constants
turns them into float32 later. Inputs and outputs keep the type that the user's program gives and takes.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bitwright.graph.onnx import constants_of, inner_nodes, is_constant

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def to_single(model: ModelProto) -> tuple[str, ...]:
    """Compute in float32 what is computed in float16; the model is changed, and a note says so.

    Only where a convolution or matrix product has a weight in float16. A model with float16 in a subgraph stays.
    """
    halves = [name for name, tensor in constants_of(model).items() if tensor.data_type == HALF]
    reads = {name for node in model.graph.node if node.op_type in WEIGHTED for name in node.input[1:2]}
    if reads.isdisjoint(halves) or any(_makes_half(node) for node, _ in inner_nodes(model)):
        return ()
    graph = model.graph
    given = [value.name for value in graph.input if value.type.tensor_type.elem_type == HALF]
    wanted = [value.name for value in graph.output if value.type.tensor_type.elem_type == HALF]
    sources = dict.fromkeys((*given, *halves))
    singles = {name: _fresh(model, f"{name}.single") for name in dict.fromkeys((*sources, *wanted))}
    held = [node for node in graph.node if is_constant(node)]
    others = [node for node in graph.node if not is_constant(node)]
    before = [helper.make_node("Cast", [name], [singles[name]], singles[name], to=SINGLE) for name in sources]
    after = [helper.make_node("Cast", [singles[name]], [name], f"{name}.half", to=HALF) for name in wanted]
    for node in others:
        _rename(node, singles, wanted)
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in (*held, *before, *others, *after)]
    del graph.node[:]
    graph.node.extend(nodes)
    _forget_types(graph)
    return ("computed in float32, because what is in float16 cannot be quantized; inputs and outputs are as they were",)


def _rename(node: NodeProto, singles: dict[str, str], wanted: list[str]) -> None:
    """Let a node work on the float32 of everything."""
    for reading in (node, *_inner(node)):
        reading.input[:] = [singles.get(name, name) for name in reading.input]
    node.output[:] = [singles[name] if name in wanted else name for name in node.output]
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == HALF:
            attribute.i = SINGLE
        elif attribute.t.data_type == HALF:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype("float32")))


def _inner(node: NodeProto) -> Iterator[NodeProto]:
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield inner
                yield from _inner(inner)


def _makes_half(node: NodeProto) -> bool:
    """Whether a node by itself brings float16 into a graph."""
    return any(a.t.data_type == HALF or (a.name in ("to", "dtype") and a.i == HALF) for a in node.attribute)


def _forget_types(graph: GraphProto) -> None:
    """Take away what the file says of values in between, which is no longer true."""
    kept = [value for value in graph.value_info if value.type.tensor_type.elem_type != HALF]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _fresh(model: ModelProto, wanted: str) -> str:
    """A name that no value has."""
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    while wanted in taken:
        wanted += "'"
    return wanted
