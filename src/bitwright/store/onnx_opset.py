"""Converts a model of an old opset to one that can be quantized, and proves on random inputs that it computes the same.

ONNX's own converter does most of it. Two things it gets wrong without a word: it drops the system of coordinates that
resizing had before opset 11, which is mended here, and it leaves operators with a changed default as they are. So both
models run once in ONNX Runtime, and a conversion that changes the outputs is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from bitwright.graph.onnx import constants_of, opset_of, size_of
from bitwright.store.source_error import SourceError

LOWEST_OPSET = 13  # the first in which QuantizeLinear has an axis, which per-channel weights need
RESIZE_CHANGED = 11  # before, an output position lay at position / scale, and the neighbour below was nearest
# What free axes are given in the proof, the first one and the others: small, or one sample as large as most windows.
FREE_SIZES = ((2, 2), (1, 64))
LARGEST_DIFFERENCE = 1e-3  # of the largest number of an output; two kernels differ by about 1e-6
CANNOT_RUN = (
    failures.Fail,
    failures.InvalidArgument,
    failures.InvalidGraph,
    failures.NotImplemented,
    failures.RuntimeException,
    ValueError,
)


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
    for sizes in FREE_SIZES:
        feeds = _feeds(model, *sizes)
        try:
            before, after = _run(model, feeds, folder), _run(converted, feeds, folder)
        except CANNOT_RUN as error:
            reason = str(error).strip().splitlines()[0]
            continue
        break
    else:
        return converted, (f"{note}; not proved, because the model does not run on random inputs: {reason}",)
    for value, one, other in zip(model.graph.output, before, after, strict=True):
        if not _is_same(one, other):
            raise _refusal(opset, f"the converted model computes another {value.name}")
    return converted, (note,)


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


def _feeds(model: ModelProto, first: int, others: int) -> dict[str, Any]:
    """Random numbers for every input, with these sizes where axes are free. Integers, maybe indices, are 0 or 1."""
    draws = np.random.default_rng(0)
    constants = constants_of(model)
    feeds: dict[str, Any] = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        known = map(size_of, kind.shape.dim)
        shape = [(others if axis else first) if size is None else size for axis, size in enumerate(known)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        numbers = draws.standard_normal(shape) if dtype.kind == "f" else draws.integers(0, 2, shape)
        feeds[value.name] = np.asarray(numbers).astype(dtype)
    return feeds


def _run(model: ModelProto, feeds: dict[str, Any], folder: Path) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run([value.name for value in model.graph.output], feeds))


def _is_same(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind not in "fiub":
        return bool((one == other).all())
    scale = max(float(np.nanmax(np.abs(one), initial=0.0)), 1e-30) if np.isfinite(one).any() else 1.0
    return bool(np.allclose(one / scale, other / scale, rtol=0, atol=LARGEST_DIFFERENCE, equal_nan=True))
