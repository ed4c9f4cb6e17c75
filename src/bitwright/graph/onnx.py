"""Reads an ONNX graph into a `Network`.

The structure is checked first, so that a damaged file is an error that names the node: every value is made once and
before it is read, no node waits for its own output, no constant is missing. Shapes and element types come from ONNX's
shape inference, which runs on a light copy of the graph in which large constants are plain inputs, so that the size of
a model does not matter. Subgraphs (`If`, `Loop`, `Scan`) are not opened: their node stands for them, with the outer
values that they read as its captures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from bitwright.graph.network import Network, NetworkError, Node, Opaque, Scalar, Value

LIGHT = 1024  # elements: a constant up to this size may hold a shape, which inference has to read
UNKNOWN = "unknown"
CONSTANT_FIELDS = {
    "value_float": TensorProto.FLOAT,
    "value_floats": TensorProto.FLOAT,
    "value_int": TensorProto.INT64,
    "value_ints": TensorProto.INT64,
}


def network_of(model: ModelProto) -> Network:
    """The main graph of a model as plain data; local functions must have been inlined.

    Raises NetworkError for a graph that is cyclic, out of order, or reads what nothing makes. Tensor data need not be
    loaded.
    """
    graph = model.graph
    opset = opset_of(model)
    constants = constants_of(model)
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    nodes = _nodes(graph)
    _check(nodes, inputs, constants.keys(), [value.name for value in graph.output])
    return Network(
        nodes=nodes,
        inputs=inputs,
        outputs=tuple(value.name for value in graph.output),
        constants=frozenset(constants),
        values=_values(model, constants, nodes),
        opset=opset,
    )


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators that a model uses; NetworkError where it does not say."""
    for imported in model.opset_import:
        if imported.domain in ("", "ai.onnx"):
            return int(imported.version)
    raise NetworkError("the model does not say which opset it uses; export it again")


def constants_of(model: ModelProto) -> dict[str, TensorProto]:
    """Every stored tensor of the main graph by name: initializers, and what `Constant` nodes hold.

    The protos are the model's own where it has one, so that writing into them writes into the model.
    """
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise NetworkError(f"{name}: sparse initializers are not supported; store it as a dense tensor")
    for node in model.graph.node:
        if is_constant(node):
            found[node.output[0]] = _held(node)
    return found


def is_constant(node: NodeProto) -> bool:
    """Whether a node only holds a tensor."""
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def inner_nodes(model: ModelProto) -> Iterator[tuple[NodeProto, str]]:
    """Every node inside a subgraph, at any depth, with the name of the node of the main graph that it belongs to."""
    for node, name in zip(model.graph.node, _names(model.graph.node), strict=True):
        for graph in _subgraphs(node):
            yield from ((inner, name) for inner in _all_nodes(graph))


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for inner in _subgraphs(node):
            yield from _all_nodes(inner)


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _held(node: NodeProto) -> TensorProto:
    """The tensor of a `Constant` node, which has seven ways to say it."""
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor: TensorProto = attribute.t
        return tensor
    if attribute.name in CONSTANT_FIELDS:
        number = onnx.helper.get_attribute_value(attribute)
        numbers = list(number) if attribute.name.endswith("s") else [number]
        shape = [len(numbers)] if attribute.name.endswith("s") else []
        return onnx.helper.make_tensor(node.output[0], CONSTANT_FIELDS[attribute.name], shape, numbers)
    if attribute.name in ("value_string", "value_strings"):
        strings = list(attribute.strings) or [attribute.s]
        shape = [len(strings)] if attribute.name.endswith("s") else []
        return onnx.helper.make_tensor(node.output[0], TensorProto.STRING, shape, strings)
    raise NetworkError(f"{node.output[0]}: a Constant with {attribute.name} is not supported; store a dense tensor")


def _nodes(graph: GraphProto) -> tuple[Node, ...]:
    names = _names(graph.node)
    return tuple(
        Node(
            name=name,
            op=node.op_type,
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            attributes={attribute.name: _plain(attribute) for attribute in node.attribute},
            domain="" if node.domain == "ai.onnx" else node.domain,
            captures=tuple(dict.fromkeys(name for inner in _subgraphs(node) for name in _captures(inner))),
        )
        for node, name in zip(graph.node, names, strict=True)
        if not is_constant(node)
    )


def _names(nodes: Sequence[NodeProto]) -> list[str]:
    """A unique name for every node: its own, or that of its operator and first output."""
    counts = Counter(node.name for node in nodes)
    names: list[str] = []
    taken = set(counts)
    for node in nodes:
        name = node.name
        if not name or counts[name] > 1:
            name = next(filter(None, node.output), "")
            name = f"{node.op_type}:{name}"
            while name in taken:
                name += "'"
            taken.add(name)
        names.append(name)
    return names


def _plain(attribute: AttributeProto) -> Any:
    kind = attribute.type
    if kind == AttributeProto.TENSOR and list(attribute.t.dims) in ([], [1]) and _holds_numbers(attribute.t):
        number = onnx.numpy_helper.to_array(attribute.t).reshape(()).item()
        return Scalar(number, dtype_name(attribute.t.data_type))
    if kind in (AttributeProto.INT, AttributeProto.FLOAT):
        return onnx.helper.get_attribute_value(attribute)
    if kind in (AttributeProto.INTS, AttributeProto.FLOATS):
        return tuple(onnx.helper.get_attribute_value(attribute))
    if kind == AttributeProto.STRING:
        return attribute.s.decode("utf-8", "replace")
    if kind == AttributeProto.STRINGS:
        return tuple(text.decode("utf-8", "replace") for text in attribute.strings)
    return Opaque(AttributeProto.AttributeType.Name(kind).lower())


def _holds_numbers(tensor: TensorProto) -> bool:
    return tensor.data_location != TensorProto.EXTERNAL and tensor.data_type != TensorProto.STRING


def _captures(graph: GraphProto) -> Iterator[str]:
    """Names that a subgraph reads from outside, in the order in which it reads them."""
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        yield from (name for name in node.input if name and name not in known)
        for inner in _subgraphs(node):
            yield from (name for name in _captures(inner) if name not in known)
        known.update(node.output)
    yield from (value.name for value in graph.output if value.name not in known)


def _check(nodes: Sequence[Node], inputs: Sequence[str], constants: Any, outputs: Sequence[str]) -> None:
    known = {*inputs, *constants}
    made: dict[str, str] = {}
    for node in nodes:
        for name in filter(None, node.outputs):
            if name in made or name in known:
                other = made.get(name, "the model itself, as an input or constant")
                raise NetworkError(f"{name}: made by {node.name} and by {other}; a value is made once")
            made[name] = node.name
    late: Node | None = None
    for node in nodes:
        for name in filter(None, (*node.inputs, *node.captures)):
            if name not in known and name not in made:
                raise NetworkError(
                    f"{node.name} ({node.op}) reads {name!r}, which is not an input or a stored constant, and which no "
                    f"node makes; the file is damaged or a constant was left out of it"
                )
            late = late or (node if name not in known else None)
        known.update(node.outputs)
    if late is not None:
        _raise_order(nodes, made, late)
    for name in outputs:
        if name not in known:
            raise NetworkError(f"{name}: an output of the model that no node makes; the file is damaged")


def _raise_order(nodes: Sequence[Node], made: Mapping[str, str], late: Node) -> None:
    reads = {node.name: {made[name] for name in (*node.inputs, *node.captures) if name in made} for node in nodes}
    try:
        TopologicalSorter(reads).prepare()
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise NetworkError(
            f"the graph is cyclic: {circle}; a network must run from its inputs to its outputs"
        ) from None
    raise NetworkError(
        f"{late.name} ({late.op}) stands before a node whose output it reads; sort the nodes of the file"
    )


def _values(model: ModelProto, constants: Mapping[str, TensorProto], nodes: Sequence[Node]) -> dict[str, Value]:
    names = [value.name for value in model.graph.input]
    names += [name for node in nodes for name in node.outputs if name]
    values = {name: Value(name, None, UNKNOWN) for name in names}
    light = light_copy(model, constants)
    try:
        graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise NetworkError(f"shape inference failed: {error}; the graph is invalid") from error
    for info in (*graph.value_info, *graph.output, *graph.input):
        if info.name in values and info.type.HasField("tensor_type"):
            values[info.name] = _value(info)
    for info in model.graph.value_info:  # the file's own word may be out of date: only where inference has none
        if info.name in values and values[info.name].dtype == UNKNOWN and info.type.HasField("tensor_type"):
            values[info.name] = _value(info)
    for name, tensor in constants.items():
        values[name] = Value(name, tuple(tensor.dims), dtype_name(tensor.data_type))
    return values


def _value(info: onnx.ValueInfoProto) -> Value:
    kind = info.type.tensor_type
    shape = tuple(map(size_of, kind.shape.dim))
    return Value(info.name, shape if kind.HasField("shape") else None, dtype_name(kind.elem_type))


def size_of(dim: onnx.TensorShapeProto.Dimension) -> int | None:
    """The size of an axis; None for a free one, which some writers spell -1."""
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None


def dtype_name(elem_type: int) -> str:
    """Numpy's word for an element type of ONNX, such as `float32`; `string`, and `unknown` for none."""
    if elem_type == TensorProto.STRING:
        return "string"
    if elem_type not in TensorProto.DataType.values() or elem_type == TensorProto.UNDEFINED:
        return UNKNOWN
    return str(onnx.helper.tensor_dtype_to_np_dtype(elem_type).name)


def light_copy(model: ModelProto, constants: Mapping[str, TensorProto]) -> ModelProto:
    """The model with every constant of more than `LIGHT` elements as a plain input: valid, and small."""
    heavy = {
        name: tensor
        for name, tensor in constants.items()
        if _elements(tensor) > LIGHT or tensor.data_location == TensorProto.EXTERNAL
    }
    light = ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = model.graph.name or "graph"
    light.graph.node.extend(node for node in model.graph.node if not (is_constant(node) and node.output[0] in heavy))
    light.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in heavy)
    light.graph.input.extend(value for value in model.graph.input if value.name not in constants)
    for name, tensor in heavy.items():
        light.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    light.graph.output.extend(model.graph.output)
    return light


def _elements(tensor: TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def reads_of(node: NodeProto) -> Iterator[str]:
    """Every name that a node or its subgraphs read; names that are only known inside do no harm."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from reads_of(inner)
