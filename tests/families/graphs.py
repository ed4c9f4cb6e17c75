"""ONNX graphs as exporters and people write them, each odd in one way; random weights, seeded.

`GRAPHS` has by name a function that gives the model and a function that makes a batch of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

Graph = tuple[ModelProto, Callable[[int], dict[str, Tensor]]]
GRAPHS: dict[str, Callable[[], Graph]] = {}
node = helper.make_node
PICTURE = ("n", 3, 12, 12)


def graph(function: Callable[[], Graph]) -> Callable[[], Graph]:
    GRAPHS[function.__name__] = function
    return function


class Store:
    """Initializers of one model."""

    def __init__(self) -> None:
        self.draws = np.random.default_rng(0)
        self.held: list[TensorProto] = []

    def random(self, *shape: int, dtype: Any = np.float32, scale: float = 0.3) -> str:
        return self.fixed((self.draws.standard_normal(shape) * scale).astype(dtype))

    def ones(self, size: int) -> str:
        return self.fixed(np.ones(size, np.float32))

    def integers(self, *numbers: int) -> str:
        return self.fixed(np.array(numbers, np.int64))

    def floats(self, *numbers: float) -> str:
        return self.fixed(np.array(numbers, np.float32))

    def fixed(self, array: Any) -> str:
        name = f"held{len(self.held)}"
        self.held.append(numpy_helper.from_array(array, name))
        return name


def info(name: str, shape: Sequence[int | str] | None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[NodeProto],
    store: Store,
    shape: Sequence[int | str] = PICTURE,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
) -> ModelProto:
    """A model that reads x; its outputs say no shape, as many files do not."""
    made = [info(name, None, kind if kind == TensorProto.FLOAT16 else TensorProto.FLOAT) for name in outputs]
    built = helper.make_graph(nodes, "graph", [info("x", shape, kind)], made, store.held)
    found: ModelProto = helper.make_model(built, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return found


def pictures(count: int) -> dict[str, Tensor]:
    return {"x": torch.randn(count, 3, 12, 12)}


def rows(*shape: int) -> Callable[[int], dict[str, Tensor]]:
    return lambda count: {"x": torch.randn(count, *shape)}


@graph
def gemm_both_ways() -> Graph:
    s = Store()
    nodes = [
        node("Flatten", ["x"], ["f"]),
        node("Gemm", ["f", s.random(432, 8, scale=0.05), s.random(8)], ["g"], transB=0),
        node("Relu", ["g"], ["r"]),
        node("Gemm", ["r", s.random(4, 8), s.random()], ["y"], transB=1),
    ]
    return model(nodes, s), pictures


@graph
def weight_read_both_ways() -> Graph:
    s = Store()
    weight = s.random(8, 8)
    nodes = [node("Gemm", ["x", weight], ["a"], transB=1), node("MatMul", ["a", weight], ["y"])]
    return model(nodes, s, ("n", 8)), rows(8)


@graph
def weight_in_two_places() -> Graph:
    s = Store()
    weight, bias = s.random(3, 3, 3, 3), s.random(3)
    nodes = [
        node("Conv", ["x", weight, bias], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", weight, bias], ["c"], pads=[1, 1, 1, 1]),
        node("Identity", [weight], ["w"]),
        node("Conv", ["c", weight], ["y"]),
    ]
    return model(nodes, s, outputs=("y", "w")), pictures


@graph
def padded_by_name() -> Graph:
    s = Store()
    nodes = [
        node("Conv", ["x", s.random(8, 3, 3, 3)], ["a"], auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", s.random(8, 8, 3, 3), s.random(8)], ["c"], auto_pad="SAME_LOWER"),
        node("MaxPool", ["c"], ["d"], kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
        node("Conv", ["d", s.random(4, 8, 2, 2)], ["y"], auto_pad="VALID"),
    ]
    return model(nodes, s), pictures


@graph
def nameless_and_odd_names() -> Graph:
    s = Store()
    nodes = [
        node("Conv", ["x", s.random(8, 3, 3, 3)], ['é "q"'], pads=[1, 1, 1, 1]),
        node("Relu", ['é "q"'], [".."]),
        node("Conv", ["..", s.random(4, 8, 1, 1)], ["y"], name="q/é:0 <x>"),
    ]
    return model(nodes, s), pictures


@graph
def constants_among_the_inputs() -> Graph:
    s = Store()
    norm = [s.random(8), s.random(8), s.random(8), s.ones(8)]
    nodes = [
        node("Conv", ["x", s.random(8, 3, 3, 3), s.random(8)], ["a"]),
        node("BatchNormalization", ["a", *norm], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("Conv", ["c", s.random(4, 8, 1, 1)], ["d"]),
        node("Dropout", ["d"], ["y"]),
    ]
    found = model(nodes, s, opset=9)
    found.graph.input.extend(info(held.name, list(held.dims), held.data_type) for held in s.held)
    found.ir_version = 3
    return found, pictures


@graph
def upsampled_in_opset_9() -> Graph:
    s = Store()
    scales = s.floats(1, 1, 2, 2)
    nodes = [
        node("Conv", ["x", s.random(8, 3, 3, 3)], ["a"]),
        node("Upsample", ["a", scales], ["b"], mode="nearest"),
        node("Conv", ["b", s.random(4, 8, 3, 3)], ["c"]),
        node("Upsample", ["c", scales], ["d"], mode="linear"),
        node("Conv", ["d", s.random(4, 4, 1, 1)], ["y"]),
    ]
    return model(nodes, s, opset=9), pictures


@graph
def cut_and_padded_in_opset_9() -> Graph:
    s = Store()
    nodes = [
        node("Pad", ["x"], ["a"], pads=[0, 0, 1, 1, 0, 0, 1, 1]),
        node("Conv", ["a", s.random(8, 3, 3, 3)], ["b"]),
        node("Clip", ["b"], ["c"], min=0.0, max=6.0),
        node("Slice", ["c"], ["d"], starts=[0, 1], ends=[100, 100], axes=[0, 2]),
        node("Conv", ["d", s.random(8, 8, 1, 1)], ["e"]),
        node("Split", ["e"], ["f", "g"], axis=1),
        node("Add", ["f", "g"], ["h"]),
        node("Conv", ["h", s.random(4, 4, 1, 1)], ["y"]),
    ]
    return model(nodes, s, opset=9), pictures


@graph
def padded_apart_and_pooled_over_the_edge() -> Graph:
    """As networks that came from TensorFlow are written; the last window is larger than what it reads."""
    s = Store()
    zero, behind = s.fixed(np.zeros((), np.float32)), s.integers(0, 0, 0, 0, 0, 0, 1, 1)
    around = s.integers(0, 0, 1, 1, 0, 0, 1, 1)
    nodes = [
        node("Pad", ["x", behind, zero], ["a"]),
        node("Conv", ["a", s.random(8, 3, 3, 3)], ["b"], strides=[2, 2]),
        node("Relu", ["b"], ["c"]),
        node("Pad", ["c", around], ["d"]),
        node("Conv", ["d", s.random(8, 1, 3, 3), s.random(8)], ["e"], group=8),
        node("Relu", ["e"], ["f"]),
        node("AveragePool", ["f"], ["g"], kernel_shape=[20, 20], strides=[20, 20], ceil_mode=1, count_include_pad=1),
        node("Conv", ["g", s.random(8, 8, 1, 1)], ["y"]),
    ]
    return model(nodes, s), pictures


@graph
def copies_in_between() -> Graph:
    s = Store()
    nodes = [
        node("Identity", ["x"], ["a"]),
        node("Identity", [s.random(8, 3, 3, 3)], ["w"]),
        node("Identity", ["w"], ["v"]),
        node("Conv", ["a", "v"], ["b"]),
        node("Identity", ["b"], ["c"]),
        node("Dropout", ["c"], ["d"]),
        node("Relu", ["d"], ["e"]),
        node("Conv", ["e", s.random(4, 8, 1, 1)], ["f"]),
        node("Identity", ["f"], ["y"]),
    ]
    return model(nodes, s), pictures


@graph
def computed_weights() -> Graph:
    s = Store()
    nodes = [
        node("Transpose", [s.random(3, 3, 3, 8)], ["a"], perm=[3, 2, 0, 1]),
        node("Mul", ["a", s.random(8, 1, 1, 1)], ["v"]),
        node("Conv", ["x", "v"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("Cast", [s.random(32, dtype=np.float16)], ["d"], to=TensorProto.FLOAT),
        node("Reshape", ["d", s.integers(4, 8, 1, 1)], ["w"]),
        node("Conv", ["c", "w"], ["y"]),
    ]
    return model(nodes, s), pictures


@graph
def constants_as_nodes() -> Graph:
    s = Store()
    weight = numpy_helper.from_array(s.draws.standard_normal((8, 3, 3, 3)).astype(np.float32), "weight")
    nodes = [
        node("Constant", [], ["w"], value=weight),
        node("Conv", ["x", "w"], ["a"]),
        node("Constant", [], ["low"], value_float=0.0),
        node("Constant", [], ["high"], value_float=6.0),
        node("Clip", ["a", "low", "high"], ["b"]),
        node("Conv", ["b", s.random(4, 8, 1, 1)], ["y"]),
    ]
    return model(nodes, s), pictures


@graph
def outputs_everywhere() -> Graph:
    s = Store()
    nodes = [
        node("Conv", ["x", s.random(8, 3, 3, 3)], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Identity", ["b"], ["c"]),
        node("Conv", ["b", s.random(4, 8, 1, 1)], ["y"]),
        node("ReduceMean", ["y"], ["mean"], keepdims=0),
        node("Conv", ["b", s.random(4, 8, 1, 1)], ["unread"]),
    ]
    return model(nodes, s, outputs=("a", "b", "c", "y", "mean")), pictures


@graph
def recurrent_with_outputs_left_out() -> Graph:
    s = Store()
    weights = [s.random(1, 16, 5), s.random(1, 16, 4), s.random(1, 32)]
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
        node("LSTM", ["a", *weights, "", s.random(1, 1, 4)], ["", "last"], hidden_size=4),
        node("Squeeze", ["last", s.integers(0)], ["b"]),
        node("MatMul", ["b", s.random(4, 200)], ["y"]),
    ]
    return model(nodes, s, (1, 6, 5)), rows(6, 5)


@graph
def samples_along_the_second_axis() -> Graph:
    s = Store()
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
        node("MatMul", ["a", s.random(5, 6)], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("MatMul", ["c", s.random(6, 4)], ["d"]),
        node("Transpose", ["d"], ["y"], perm=[1, 0, 2]),
    ]
    return model(nodes, s, ("n", 7, 5)), rows(7, 5)


@graph
def scalar_input() -> Graph:
    s = Store()
    nodes = [
        node("Conv", ["x", s.random(8, 3, 3, 3)], ["a"]),
        node("Mul", ["a", "k"], ["b"]),
        node("Conv", ["b", s.random(4, 8, 1, 1)], ["y"]),
    ]
    found = model(nodes, s)
    found.graph.input.append(info("k", []))
    return found, lambda count: {"x": torch.randn(count, 3, 12, 12), "k": torch.tensor(1.5)}


@graph
def words() -> Graph:
    s = Store()
    nodes = [
        node("Gather", [s.random(20, 8), "x"], ["a"]),
        node("MatMul", ["a", s.random(8, 8)], ["b"]),
        node("Add", ["b", s.random(8)], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("MatMul", ["d", s.random(8, 4)], ["e"]),
        node("ReduceMean", ["e"], ["y"], axes=[1], keepdims=0),
    ]
    found = model(nodes, s, ("n", "length"))
    found.graph.input[0].CopyFrom(info("x", ("n", "length"), TensorProto.INT64))
    return found, lambda count: {"x": torch.randint(0, 20, (count, 6))}


@graph
def all_in_float16() -> Graph:
    s = Store()
    half: Any = {"dtype": np.float16}
    nodes = [
        node("Conv", ["x", s.random(8, 3, 3, 3, **half), s.random(8, **half)], ["a"]),
        node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        node("Softmax", ["b"], ["c"], axis=1),
        node("Cast", ["c"], ["d"], to=TensorProto.FLOAT16),
        node("Mul", ["d", "a"], ["e"]),
        node("Conv", ["e", s.random(4, 8, 1, 1, **half)], ["y"]),
    ]
    return model(nodes, s, kind=TensorProto.FLOAT16), lambda count: {"x": pictures(count)["x"].half()}


def saved(name: str, path: Any) -> tuple[Any, Callable[[int], dict[str, Tensor]]]:
    """The graph of this name, written to `path`."""
    found, sample = GRAPHS[name]()
    onnx.save(found, path)
    return path, sample
