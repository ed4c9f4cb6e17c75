"""Graphs in ONNX's text form, run before and after a rewrite: as written, and with the engine's optimisations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, parser

from bitwright.export.proto_graph import ProtoGraph
from bitwright.store.onnx_source import OnnxSource

Array = np.ndarray[Any, Any]
Rewrite = Callable[[ProtoGraph], None]


def source_of(text: str, folder: Path, opset: int = 18) -> OnnxSource:
    """The source of a graph in text form: `name (inputs) => (outputs) <constants> { nodes }`."""
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]> {text}')
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "model.onnx")
    return OnnxSource.open(folder / "model.onnx")


def rewritten(source: OnnxSource, rewrite: Rewrite) -> ModelProto:
    """The model after a rewrite; it passes the checker."""
    model = source.model()
    rewrite(ProtoGraph(model, source))
    onnx.checker.check_model(model, full_check=True)
    return model


def outputs(model: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """What ONNX Runtime makes of a model whose operators it computes as they are written."""
    return _session(model, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL).run(None, dict(feeds))


def operators(model: ModelProto) -> Counter[str]:
    """How often each operator stands in a model."""
    return Counter(node.op_type for node in model.graph.node)


def optimised(model: ModelProto, folder: Path) -> Counter[str]:
    """The operators that are left after ONNX Runtime's optimisations."""
    path = folder / "optimised.onnx"
    _session(model, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED, path)
    return operators(onnx.load(path))


def assert_same_bits(source: OnnxSource, model: ModelProto, feeds: Mapping[str, Array]) -> None:
    """A model gives the bits that its source gives."""
    for wanted, found in zip(outputs(source.model(), feeds), outputs(model, feeds), strict=True):
        assert wanted.shape == found.shape
        assert wanted.tobytes() == found.tobytes()


def _session(model: ModelProto, level: Any, path: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 3
    if path is not None:
        options.optimized_model_filepath = str(path)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
