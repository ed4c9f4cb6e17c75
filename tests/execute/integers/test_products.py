"""Sums of products of codes: exact, and with what sixteen bits cut off, as plain loops over integers find them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bitwright.execute.integers.codes import Codes, wrapped
from bitwright.execute.integers.products import sums_of
from bitwright.graph.network import Node
from execute.integers.scalar import convolution, dot

CONV = Node("conv", "Conv", ("x", "w"), ("y",))
MATMUL = Node("matmul", "MatMul", ("x", "w"), ("y",))


def codes(array: Any, dtype: torch.dtype, zero: int = 0) -> Codes:
    return Codes(torch.tensor(np.asarray(array)).to(dtype), torch.ones(()), torch.tensor(zero).to(dtype))


def drawn(seed: int, shape: tuple[int, ...], low: int, high: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(low, high + 1, shape)


@pytest.mark.parametrize("in_pairs", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_convolution_adds_up_what_loops_do(in_pairs: bool, signed: bool, groups: int) -> None:
    low, high = (-128, 127) if signed else (0, 255)
    attributes = {"group": groups, "strides": (2, 1), "pads": (1, 0, 1, 2), "dilations": (1, 2)}
    x, w = drawn(1, (2, 6, 5, 6), high - 60, high), drawn(2, (6, 6 // groups, 3, 2), 40, 127)
    w *= np.random.default_rng(3).choice([-1, 1, 1], w.shape)
    zero = low + 77
    dtype = torch.int8 if signed else torch.uint8
    node = replace(CONV, attributes=attributes)
    found = sums_of(node, codes(x, dtype, zero), codes(w, torch.int8), in_pairs)
    assert found.dtype == torch.int32
    assert np.array_equal(found.numpy(), convolution(x, w, zero, low, attributes, in_pairs))
    exact = convolution(x, w, zero, low, attributes, False)
    assert (groups == 6 or not in_pairs) == np.array_equal(found.numpy(), exact)  # depthwise never saturates


@pytest.mark.parametrize("in_pairs", [False, True])
@pytest.mark.parametrize("reduced", [1, 2, 7, 40])
def test_a_matrix_product_adds_up_what_loops_do(in_pairs: bool, reduced: int) -> None:
    x, w = drawn(4, (2, 3, reduced), 0, 255), drawn(5, (reduced, 5), -128, 127)
    found = sums_of(MATMUL, codes(x, torch.uint8, 9), codes(w, torch.int8), in_pairs)
    wanted = [[[dot(row, column, 9, 0, in_pairs) for column in w.T] for row in batch] for batch in x]
    assert found.tolist() == wanted


def test_a_product_of_two_activations_saturates_where_the_second_is_signed() -> None:
    x, y = drawn(6, (2, 3, 8), 200, 255), drawn(7, (2, 8, 4), 90, 127)
    for dtype, in_pairs in ((torch.int8, True), (torch.uint8, False)):
        found = sums_of(MATMUL, codes(x, torch.uint8), codes(y, dtype), True)
        wanted = [[[dot(r, c, 0, 0, in_pairs) for c in b.T] for r in a] for a, b in zip(x, y, strict=True)]
        assert found.tolist() == wanted


def test_a_turned_gemm_adds_up_the_same() -> None:
    x, w = drawn(8, (3, 9), 0, 255), drawn(9, (9, 4), -127, 127)
    plain, turned = (Node("g", "Gemm", ("x", "w"), ("y",), {"transB": turn}) for turn in (0, 1))
    first = sums_of(plain, codes(x, torch.uint8), codes(w, torch.int8), True)
    assert torch.equal(first, sums_of(turned, codes(x, torch.uint8), codes(w.T.copy(), torch.int8), True))


@pytest.mark.parametrize(("pair", "is_cut"), [((128, 1), True), ((127, 1), False), ((64, 64), False), ((65, 64), True)])
def test_saturation_begins_where_a_pair_no_longer_fits(pair: tuple[int, int], is_cut: bool) -> None:
    """255 * 128 is 32,640 and 255 * 129 is 32,895, more than the 32,767 that fit; below, the least is -32,768."""
    first, second = min(pair[0], 127), pair[1] + max(0, pair[0] - 127)
    for sign in (1, -1):
        w = codes([[sign * first], [sign * second]], torch.int8)
        found = sums_of(MATMUL, codes([[255, 255]], torch.uint8), w, True).item()
        exact = sign * 255 * (first + second)
        assert found == max(-32768, min(32767, exact))
        assert (found != exact) == is_cut


@pytest.mark.parametrize("seed", range(5))
def test_weights_of_half_the_range_never_saturate(seed: int) -> None:
    x = codes(np.where(drawn(seed, (4, 50), 0, 1) > 0, 255, 0), torch.uint8, 3)
    w = codes(np.where(drawn(seed + 50, (50, 30), 0, 1) > 0, 63, -64), torch.int8)
    assert torch.equal(sums_of(MATMUL, x, w, True), sums_of(MATMUL, x, w, False))
    wide = codes(np.where(drawn(seed + 50, (50, 30), 0, 1) > 0, 127, -128), torch.int8)
    assert not torch.equal(sums_of(MATMUL, x, wide, True), sums_of(MATMUL, x, wide, False))


def test_sums_beyond_float32_are_exact() -> None:
    x, w = drawn(10, (2, 3000), 0, 255), drawn(11, (3000, 3), 100, 127)
    found = sums_of(MATMUL, codes(x, torch.uint8), codes(w, torch.int8), False)
    assert found.tolist() == (x @ w).tolist() and found.max() > 2**24


def test_an_accumulator_wraps_around() -> None:
    sums = torch.tensor([2.0**31, -(2.0**31) - 1, 5.0], dtype=torch.float64)
    assert wrapped(sums).tolist() == [-(2**31), 2**31 - 1, 5]
