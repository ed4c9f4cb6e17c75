"""An ONNX file for less than the user's is for: inputs of one value or one size, without the branches of others.

Files that do several things decide in an `If` which one they do: a voice detector by the sampling rate, a decoder by
whether it has a past. What stands inside cannot be quantized. Where the deciding input is known, one branch takes the
place of the `If`; where sizes are known, so do branches that ask for a shape. What comes out is an ordinary file that
takes the same inputs as before, those of one value included, which it does not look at any more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

from bitwright.graph.names import Names
from bitwright.graph.network import Network
from bitwright.graph.onnx import constants_of, is_constant, network_of, size_of
from bitwright.store.onnx_branches import copied, drop_unread, every_name, is_branching, rename_reads, take_branch
from bitwright.store.onnx_proof import CANNOT_RUN, OtherOutputError, doubt_about, outputs_on
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.source_error import SourceError

LARGEST = 1024  # elements of an input that is given one value, and of what is computed beforehand
RANDOM = ("Random", "Bernoulli", "Multinomial")

Number = float | int | bool


@final
@dataclass(frozen=True, slots=True)
class Specialized:
    """The new file; every `If` that was decided, by name, and its branch; those that are still decided in a run.

    `doubt`: why it is not known that both files compute the same; None where they did on random inputs.
    """

    path: Path
    taken: tuple[tuple[str, str], ...]
    left: tuple[str, ...]
    doubt: str | None


def specialize(
    path: Path, out: Path, values: Mapping[str, Number], shapes: Mapping[str, Sequence[int]] | None = None
) -> Specialized:
    """Write to `out` what the file at `path` is where these inputs have these values, and these the sizes.

    A value is that of all elements of the input. Raises SourceError for an input that there is not, and for a value or
    sizes that it cannot have.
    """
    source = OnnxSource.open(path)
    if out.resolve() == Path(path).resolve():
        raise SourceError(f"{out} is the model itself; give another file to write to")
    original, model = source.model(), source.model()
    for name, sizes in (shapes or {}).items():
        _resize(_input(model, name), sizes)
    fixed = {name: _filled(_input(model, name), value) for name, value in values.items()}
    for name, value in fixed.items():
        held = Names(every_name(model.graph)).fresh(f"{name}/value")
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, held))
        rename_reads(model.graph, {name: held})
    del model.graph.value_info[:]  # sizes in it may be others now
    taken = _decide(model, source.folder)
    drop_unread(model.graph)
    try:
        doubt = doubt_about(original, model, source.folder, fixed)
    except OtherOutputError as error:
        raise SourceError(f"{path}: with these values it computes another {error}; please report this model") from error
    left = tuple(node.name or node.output[0] for node in model.graph.node if is_branching(node))
    source.write(out, model)
    OnnxSource.open(out)
    return Specialized(out, taken, left, doubt)


def _input(model: ModelProto, name: str) -> ValueInfoProto:
    constants = constants_of(model)
    inputs: dict[str, ValueInfoProto] = {v.name: v for v in model.graph.input if v.name not in constants}
    if name not in inputs:
        raise SourceError(f"{name}: the model has no input of this name; it has {', '.join(inputs)}")
    return inputs[name]


def _resize(value: ValueInfoProto, sizes: Sequence[int]) -> None:
    """Give an input these sizes."""
    dims = value.type.tensor_type.shape.dim
    known = list(map(size_of, dims))
    agrees = len(known) == len(sizes) and all(a in (None, b) for a, b in zip(known, sizes, strict=True))
    if not agrees or any(size < 0 for size in sizes):
        shape = "x".join("?" if size is None else str(size) for size in known)
        raise SourceError(f"{value.name}: cannot have the sizes {tuple(sizes)}; the model takes {shape}")
    for dim, size in zip(dims, sizes, strict=True):
        dim.Clear()
        dim.dim_value = size


def _filled(value: ValueInfoProto, number: Number) -> Any:
    """An input with this number everywhere."""
    kind = value.type.tensor_type
    known = list(map(size_of, kind.shape.dim))
    sizes = [size for size in known if size is not None]
    if len(sizes) < len(known) or math.prod(sizes) > LARGEST:
        raise SourceError(
            f"{value.name}: only an input of known, few elements can be given a value; give its sizes too"
        )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    filled = np.full(sizes, number).astype(dtype) if dtype.kind in "fiub" else None
    if filled is None or (dtype.kind != "f" and not bool((filled == number).all())):
        raise SourceError(f"{value.name}: holds {dtype.name}, which cannot be {number}")
    return filled


def _decide(model: ModelProto, folder: Path) -> tuple[tuple[str, str], ...]:
    """Take every branch that is certain; the names of their `If`, and which. The model is changed."""
    taken: list[tuple[str, str]] = []
    while True:
        while _fold(model, network_of(model), folder):  # what is folded lets more shapes be known
            pass
        found = _certain(model)
        if found is None:
            return tuple(taken)
        place, condition = found
        node = model.graph.node[place]
        taken.append((node.name or node.output[0], "then" if condition else "else"))
        take_branch(model.graph, place, condition)


def _certain(model: ModelProto) -> tuple[int, bool] | None:
    """The first `If` whose condition is a constant, and that condition."""
    constants = constants_of(model)
    for place, node in enumerate(model.graph.node):
        if is_branching(node) and node.input[0] in constants:
            return place, bool(onnx.numpy_helper.to_array(constants[node.input[0]]).reshape(-1)[0])
    return None


def _fold(model: ModelProto, network: Network, folder: Path) -> bool:
    """Put constants in the place of what is made of few constant numbers, or of known shapes; whether there was any."""
    found = _shapes(model.graph, network)
    closed = _closed(model, network)
    if closed:
        made = [name for node in closed for name in node.output if name]
        read = {name for node in closed for name in node.input} - set(made)
        part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
        part.graph.name = "constants"
        part.graph.node.extend(map(copied, closed))
        for name, tensor in constants_of(model).items():
            if name in read:
                held = part.graph.initializer.add()
                held.CopyFrom(tensor)
                held.name = name
        part.graph.output.extend(ValueInfoProto(name=name) for name in made)
        with suppress(*CANNOT_RUN):
            found |= dict(zip(made, outputs_on(part, {}, folder), strict=True))
    outputs = {value.name for value in model.graph.output}
    gone = [node for node in model.graph.node if node.output[0] in found and not outputs.intersection(node.output)]
    for node in gone:
        for name in filter(None, node.output):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(found[name]), name))
        model.graph.node.remove(node)
    return bool(gone)


def _shapes(graph: GraphProto, network: Network) -> dict[str, Any]:
    """What operators make that ask for a shape which is known."""
    found: dict[str, Any] = {}
    for node in graph.node:
        value = network.values.get(node.input[0]) if node.op_type in ("Shape", "Size") and not node.domain else None
        if value is None or value.shape is None or None in value.shape:
            continue
        sizes = np.array(value.shape, np.int64)
        ends = {one.name: one.i for one in node.attribute}
        asked = sizes[ends.get("start", 0) : ends.get("end")] if node.op_type == "Shape" else sizes.prod()
        found[node.output[0]] = asked
    return found


def _closed(model: ModelProto, network: Network) -> list[NodeProto]:
    """Nodes that make few numbers out of few constant numbers."""
    known = {name for name in network.constants if _is_small(network, name)}
    found = []
    for node in model.graph.node:
        names = [name for name in (*node.input, *node.output) if name]
        is_plain = not is_constant(node) and not node.op_type.startswith(RANDOM) and bool(node.input)
        is_plain &= not any(attribute.HasField("g") for attribute in node.attribute)
        if is_plain and known.issuperset(filter(None, node.input)) and all(_is_small(network, name) for name in names):
            found.append(node)
            known.update(node.output)
    return found


def _is_small(network: Network, name: str) -> bool:
    shape = network.values[name].shape
    sizes = [size for size in shape or () if size is not None]
    return shape is not None and len(sizes) == len(shape) and math.prod(sizes) <= LARGEST
