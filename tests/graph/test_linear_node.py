"""The index tensors of every layout of a linear operator, held against torch's own operators one channel at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.graph.linear_node import LinearNode, linear_of
from bitwright.graph.network import Network, Node, Value

CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any], Callable[[Tensor, Tensor], Tensor]]] = {
    "conv": ("Conv", (4, 6, 3, 3), {}, F.conv2d),
    "conv in one dimension": ("Conv", (4, 6, 3), {}, F.conv1d),
    "grouped": ("Conv", (4, 3, 3, 3), {"group": 2}, lambda x, w: F.conv2d(x, w, groups=2)),
    "depthwise": ("Conv", (6, 1, 3, 3), {"group": 6}, lambda x, w: F.conv2d(x, w, groups=6)),
    "multiplier": ("Conv", (12, 1, 3, 3), {"group": 6}, lambda x, w: F.conv2d(x, w, groups=6)),
    "transposed": ("ConvTranspose", (6, 4, 2, 2), {}, lambda x, w: F.conv_transpose2d(x, w, stride=2)),
    "grouped transposed": (
        "ConvTranspose",
        (6, 2, 2, 2),
        {"group": 3},
        lambda x, w: F.conv_transpose2d(x, w, stride=2, groups=3),
    ),
    "gemm": ("Gemm", (6, 4), {"alpha": 0.5}, lambda x, w: 0.5 * (x @ w)),
    "gemm transposed": ("Gemm", (4, 6), {"transB": 1}, lambda x, w: x @ w.T),
    "matmul": ("MatMul", (6, 4), {}, torch.matmul),
}


def linear(op: str, shape: tuple[int, ...], attributes: dict[str, Any]) -> LinearNode | None:
    node = Node("n", op, ("x", "w"), ("y",), attributes)
    network = Network((node,), ("x",), ("y",), frozenset({"w"}), {"w": Value("w", shape, "float32")}, 18)
    return linear_of(network, node)


@pytest.mark.parametrize("case", CASES)
def test_each_weight_reads_and_writes_the_channels_that_its_indices_say(case: str) -> None:
    op, shape, attributes, compute = CASES[case]
    found = linear(op, shape, attributes)
    assert found is not None and found.inputs == 6
    sizes = (2, 6) if found.axis == -1 else (2, 6, *[5] * (len(shape) - 2))
    x = torch.randn(sizes, dtype=torch.float64)
    weight = torch.randn(shape, dtype=torch.float64)
    y = compute(x, weight)
    assert y.shape[1] == found.outputs
    scale, gain = torch.rand(6, dtype=torch.float64) + 0.5, torch.rand(found.outputs, dtype=torch.float64) + 0.5
    across = [1 if axis != 1 else -1 for axis in range(x.dim())]
    edited = weight * scale[found.reads] * gain[found.writes]
    torch.testing.assert_close(compute(x / scale.reshape(across), edited), y * gain.reshape(across))


@pytest.mark.parametrize("case", [case for case in CASES if "transposed" not in case or "gemm" in case])
def test_the_response_to_a_constant_is_what_the_operator_makes_of_it(case: str) -> None:
    op, shape, attributes, compute = CASES[case]
    found = linear(op, shape, attributes)
    assert found is not None
    weight, constant = torch.randn(shape, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    x = constant.reshape(1, 6, *[1] * (len(shape) - 2)).expand(1, 6, *[3] * (len(shape) - 2))
    torch.testing.assert_close(found.respond(weight, constant), compute(x, weight).reshape(-1))


def test_what_is_no_linear_operator_with_a_matrix_is_none() -> None:
    assert linear("Relu", (3, 3), {}) is None
    assert linear("MatMul", (2, 3, 3), {}) is None
    assert linear("Gemm", (3, 3), {"transA": 1}) is None
