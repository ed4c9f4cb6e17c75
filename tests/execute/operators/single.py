"""A graph of one operator, run in ONNX Runtime and by the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper
from torch import Tensor

from bitwright.execute.interpret import interpret
from bitwright.graph.network import Node
from bitwright.graph.onnx import network_of

Array = np.ndarray[Any, Any]


@dataclass
class Single:
    """One operator with example inputs; an input that is None is left out."""

    op: str
    inputs: Sequence[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 18
    outputs: int = 1
    domain: str = ""

    def __str__(self) -> str:
        shapes = "-".join("x".join(map(str, a.shape)) if a is not None else "none" for a in self.inputs)
        return f"{self.op}-{self.opset}-{shapes}-" + ",".join(f"{k}={v}" for k, v in self.attributes.items())

    def model(self) -> onnx.ModelProto:
        names = ["" if array is None else f"i{place}" for place, array in enumerate(self.inputs)]
        outputs = [f"o{place}" for place in range(self.outputs)]
        node = helper.make_node(self.op, names, outputs, domain=self.domain, **self.attributes)
        declared = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in zip(names, self.inputs, strict=True)
            if array is not None
        ]
        graph = helper.make_graph([node], "g", declared, [onnx.ValueInfoProto(name=name) for name in outputs])
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def node(self) -> Node:
        return network_of(self.model()).nodes[0]

    def in_engine(self) -> list[Array]:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(self.model().SerializeToString(), options)
        return session.run(None, {f"i{place}": a for place, a in enumerate(self.inputs) if a is not None})

    def interpreted(self) -> list[Tensor]:
        values = {f"i{place}": torch.from_numpy(a) for place, a in enumerate(self.inputs) if a is not None}
        names = [f"o{place}" for place in range(self.outputs)]
        return list(interpret([self.node()], values, names).values())

    def check(self) -> None:
        """The interpreter gives what ONNX Runtime gives: shape, type and numbers."""
        for expected, found in zip(self.in_engine(), self.interpreted(), strict=True):
            assert tuple(found.shape) == expected.shape
            torch.testing.assert_close(found.contiguous(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Array:
    return (RNG.random(shape) + 0.2).astype(np.float32)


def ints(*numbers: int) -> Array:
    return np.array(numbers, dtype=np.int64)


def number(value: Any) -> Array:
    """A tensor without axes."""
    return np.array(value, dtype=np.float32 if isinstance(value, float) else np.int64)


def floats(*numbers: float) -> Array:
    return np.array(numbers, dtype=np.float32)
