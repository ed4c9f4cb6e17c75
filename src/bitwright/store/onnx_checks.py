"""What a float ONNX model must be before it is used, and the putting of local functions in the place of their calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import ModelProto, NodeProto

from bitwright.graph.network import Network
from bitwright.graph.onnx import constants_of, inner_nodes, light_copy
from bitwright.store.onnx_tensors import SMALL, every_tensor, external_place, is_external, read_external, take_in
from bitwright.store.source_error import SourceError

FREE_CONSTANTS = 4  # the first IR version in which a constant need not be an input
QUANTIZED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "ConvInteger",
    "MatMulInteger",
    "QAttention",
    "QGemm",
    "QMoE",
    "MatMulNBits",
    "MatMulBnb4",
    "MatMulFpQ4",
    "GatherBlockQuantized",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "DynamicQuantizeLSTM",
}


def check_not_quantized(model: ModelProto) -> None:
    """Raises SourceError for a model that has quantized operators already."""
    found = [node for node in _every_node(model) if node.op_type in QUANTIZED or node.op_type.startswith("QLinear")]
    if found:
        raise SourceError(
            f"the model is quantized already: {len(found)} operators such as {found[0].op_type} ({found[0].name}); "
            f"start from the float model"
        )


def check_valid(model: ModelProto) -> None:
    """Raises SourceError for what ONNX's own checker rejects. Weights are not looked at."""
    try:
        onnx.checker.check_model(light_copy(model, constants_of(model)))
    except onnx.checker.ValidationError as error:
        raise SourceError(f"not a valid ONNX model: {str(error).strip()}") from error


def check_external(model: ModelProto, folder: Path) -> None:
    """Raises SourceError unless all external data are there; small ones are read into the model."""
    for name, tensor in every_tensor(model):
        if is_external(tensor):
            length = external_place(name, tensor, folder)[2]
            if length <= SMALL:
                take_in(tensor, read_external(name, tensor, folder))


def inline_functions(model: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """The model with every call of a local function replaced by the function's body, and a note of it."""
    if not model.functions:
        return model, ()
    names = ", ".join(sorted({function.name for function in model.functions}))
    return onnx.inliner.inline_local_functions(model), (f"local functions put in the place of their calls: {names}",)


def release_constants(model: ModelProto) -> tuple[str, ...]:
    """Take constants out of the inputs, where files of IR version 3 and older list them all; a note of it.

    The model is changed. As inputs they could be replaced on every run, so engines would not take them as weights.
    """
    if model.ir_version >= FREE_CONSTANTS:
        return ()
    constants = constants_of(model)
    for value in [value for value in model.graph.input if value.name in constants]:
        model.graph.input.remove(value)
    before, model.ir_version = model.ir_version, FREE_CONSTANTS
    return (f"converted from IR version {before} to {FREE_CONSTANTS}, in which constants are no inputs",)


def complete_outputs(model: ModelProto, network: Network) -> None:
    """Give outputs without a shape, which ONNX's checker rejects, the one that was inferred; the model is changed."""
    for output in model.graph.output:
        value = network.values[output.name]
        kind = output.type.tensor_type
        if kind.HasField("shape") or value.shape is None or value.dtype in ("string", "unknown"):
            continue
        elem = kind.elem_type or onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
        output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, elem, value.shape))


def _every_node(model: ModelProto) -> Iterator[NodeProto]:
    yield from model.graph.node
    yield from (node for node, _ in inner_nodes(model))
    for function in model.functions:
        yield from function.node
