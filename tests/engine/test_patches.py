"""Patches hold exactly what the operator multiplies its weight with, judged by torch's own convolutions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from bitwright.engine.patches import mean_patch, output_axis, patches
from bitwright.graph.network import Node

CASES = {
    "plain": ({}, (6, 8, 3, 3), 1),
    "strided": ({"strides": (2, 1), "pads": (1, 0, 1, 0)}, (6, 8, 3, 3), 1),
    "dilated": ({"dilations": (1, 2), "pads": (2, 2, 2, 2)}, (6, 8, 3, 3), 1),
    "grouped": ({"group": 4, "pads": (1, 1, 1, 1)}, (12, 2, 3, 3), 4),
    "depthwise": ({"group": 8, "strides": (2, 2), "pads": (1, 1, 1, 1)}, (8, 1, 3, 3), 8),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_weight_times_its_patches_is_the_convolution(case: str) -> None:
    attributes, shape, groups = CASES[case]
    node = Node("n", "Conv", ("x", "w"), ("y",), attributes)
    x, w = torch.randn(2, 8, 9, 10), torch.randn(shape)
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    padded = functional.pad(x, (left, right, top, bottom))
    strides, dilations = attributes.get("strides", 1), attributes.get("dilations", 1)
    wanted = functional.conv2d(padded, w, None, strides, 0, dilations, groups)
    rows = w.reshape(groups, shape[0] // groups, -1)
    found = torch.einsum("gck,grk->grc", patches(node, shape, x), rows).reshape(shape[0], -1)
    torch.testing.assert_close(found, wanted.transpose(0, 1).reshape(shape[0], -1), atol=1e-4, rtol=1e-4)
    means = torch.einsum("gk,grk->gr", mean_patch(node, shape, x), rows.double()).reshape(-1)
    torch.testing.assert_close(means.float(), wanted.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding_is_that_of_the_standard(mode: str) -> None:
    node = Node("n", "Conv", ("x", "w"), ("y",), {"auto_pad": mode, "strides": (2,)})
    x, w = torch.randn(1, 2, 7), torch.randn(3, 2, 4)
    pads = {"VALID": (0, 0), "SAME_UPPER": (1, 2), "SAME_LOWER": (2, 1)}[mode]
    wanted = functional.conv1d(functional.pad(x, pads), w, stride=2)
    found = patches(node, (3, 2, 4), x)[0] @ w.reshape(3, -1).mT
    torch.testing.assert_close(found, wanted[0].mT, atol=1e-5, rtol=1e-4)


def test_a_matrix_product_reads_the_last_axis() -> None:
    node = Node("n", "MatMul", ("x", "w"), ("y",))
    x = torch.randn(2, 3, 5)
    assert torch.equal(patches(node, (5, 4), x)[0], x.reshape(6, 5))
    torch.testing.assert_close(mean_patch(node, (5, 4), x)[0].float(), x.reshape(6, 5).mean(0))
    assert output_axis(node) == 1
