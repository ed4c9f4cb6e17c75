"""Converts a model of an old opset to one that can be quantized, and proves on random inputs that it computes the same.

ONNX's own converter does most of it. Two things it gets wrong without a word: it drops the system of coordinates that
resizing had before opset 11, which is mended here, and it leaves operators with a changed default as they are. So both
models run once in ONNX Runtime, and a conversion that changes the outputs is refused.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto

from bitwright.graph.onnx import opset_of
from bitwright.store.onnx_proof import OtherOutputError, doubt_about
from bitwright.store.source_error import SourceError

LOWEST_OPSET = 13  # the first in which QuantizeLinear has an axis, which per-channel weights need
RESIZE_CHANGED = 11  # before, an output position lay at position / scale, and the neighbour below was nearest


def raise_opset(model: ModelProto, folder: Path) -> tuple[ModelProto, tuple[str, ...]]:
    """The model in an opset that can be quantized, and notes if it was converted; SourceError if it cannot be.

    `folder` is where its external data are. Where the model cannot run on random inputs the notes say that the
    conversion is not proved.
    """
    opset = opset_of(model)
    if opset >= LOWEST_OPSET:
        return model, ()
    try:
        converted = onnx.version_converter.convert_version(model, LOWEST_OPSET)
    except (onnx.version_converter.ConvertError, RuntimeError, ValueError) as error:
        raise _refusal(opset, str(error)) from error
    if opset < RESIZE_CHANGED:
        _keep_coordinates(converted)
    note = f"converted from opset {opset} to {LOWEST_OPSET}"
    try:
        doubt = doubt_about(model, converted, folder)
    except OtherOutputError as error:
        raise _refusal(opset, f"the converted model computes another {error}") from error
    return converted, (f"{note}; {doubt}" if doubt else note,)


def _refusal(opset: int, why: str) -> SourceError:
    return SourceError(
        f"opset {opset} cannot be converted to {LOWEST_OPSET}, which quantization needs: {why}; "
        f"export the model with opset {LOWEST_OPSET} or newer"
    )


def _keep_coordinates(model: ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Resize":
            mode = onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric")
            rounding = onnx.helper.make_attribute("nearest_mode", "floor")
            kept = [attribute for attribute in node.attribute if attribute.name not in (mode.name, rounding.name)]
            del node.attribute[:]
            node.attribute.extend([*kept, mode, rounding])
