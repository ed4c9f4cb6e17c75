"""Whether two forms of an ONNX model compute the same: both run on the same random inputs in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from bitwright.graph.onnx import constants_of, size_of

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


class OtherOutputError(ValueError):
    """The two models differ in an output, whose name is the message."""


def doubt_about(
    model: ModelProto, changed: ModelProto, folder: Path, fixed: Mapping[str, Any] | None = None
) -> str | None:
    """None where both compute the same on random inputs, or why that is not known; OtherOutputError where they do not.

    `fixed`: inputs that are not random. The inputs are those of `changed`, which may say more of their sizes. `folder`
    is where external data are.
    """
    reason = ""
    for sizes in FREE_SIZES:
        feeds = _feeds(changed, *sizes) | dict(fixed or {})
        try:
            before, after = outputs_on(model, feeds, folder), outputs_on(changed, feeds, folder)
        except CANNOT_RUN as error:
            reason = str(error).strip().splitlines()[0]
            continue
        for value, one, other in zip(model.graph.output, before, after, strict=True):
            if not _is_same(one, other):
                raise OtherOutputError(value.name)
        return None
    return f"not proved, because the model does not run on random inputs: {reason}"


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


def outputs_on(model: ModelProto, feeds: Mapping[str, Any], folder: Path) -> list[Any]:
    """What a model makes of these inputs, with nothing rearranged; `folder` is where its external data are."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run([value.name for value in model.graph.output], dict(feeds)))


def _is_same(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind not in "fiub":
        return bool((one == other).all())
    scale = max(float(np.nanmax(np.abs(one), initial=0.0)), 1e-30) if np.isfinite(one).any() else 1.0
    return bool(np.allclose(one / scale, other / scale, rtol=0, atol=LARGEST_DIFFERENCE, equal_nan=True))
