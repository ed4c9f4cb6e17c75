"""Which operand of which operator is which weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitwright.graph import WeightView
from bitwright.graph.ops import aten, matrix_view, products, storage_key


def owners(**parameters: Tensor) -> dict[int, tuple[str, Tensor]]:
    return {storage_key(p): (name, p) for name, p in parameters.items()}


def test_an_operand_tells_orientation_and_slice_by_its_strides() -> None:
    w, stack = torch.randn(6, 4), torch.randn(3, 6, 4)
    known = owners(w=w, stack=stack)
    assert matrix_view(w.mT, known) == WeightView("w", (6, 4))
    assert matrix_view(w, known) == WeightView("w", (4, 6), transposed=True)
    assert matrix_view(stack[2].mT, known) == WeightView("stack", (6, 4), 2)
    assert matrix_view(stack[1], known) == WeightView("stack", (4, 6), 1, transposed=True)


def test_a_square_operand_is_told_from_its_transpose() -> None:
    w = torch.randn(5, 5)
    assert matrix_view(w.mT, owners(w=w)) == WeightView("w", (5, 5))
    assert matrix_view(w, owners(w=w)) == WeightView("w", (5, 5), transposed=True)


@pytest.mark.parametrize("matrix", [torch.randn(1, 4), torch.randn(4, 1)], ids=["one row", "one column"])
def test_thin_weights_are_read_the_right_way_round(matrix: Tensor) -> None:
    for operand in (matrix.mT, matrix):
        view = matrix_view(operand, owners(w=matrix))
        assert view is not None and torch.equal(view.read(matrix), operand.mT)


def part_of(w: Tensor) -> list[Tensor]:
    return [w[:3].mT, w[3:].mT, w[:, :2].mT, w[::2].mT, w.flatten()[2:18].reshape(4, 4)]


@pytest.mark.parametrize("i", range(5))
def test_a_part_of_a_matrix_is_no_weight(i: int) -> None:
    w = torch.randn(6, 4)
    assert matrix_view(part_of(w)[i], owners(w=w)) is None


def test_other_tensors_and_vectors_are_no_weights() -> None:
    w, bias = torch.randn(6, 4), torch.randn(4)
    assert matrix_view(torch.randn(4, 6), owners(w=w)) is None
    assert matrix_view(bias[None], owners(bias=bias)) is None


def test_a_parameter_inside_a_larger_storage_is_found() -> None:
    w = torch.randn(100)[20:44].reshape(6, 4)
    assert matrix_view(w.mT, owners(w=w)) == WeightView("w", (6, 4))


def test_every_product_operator_gives_its_input() -> None:
    w, stack, x, many, bias = (
        torch.randn(6, 4),
        torch.randn(3, 4, 6),
        torch.randn(5, 4),
        torch.randn(3, 5, 4),
        torch.ones(6),
    )
    known = owners(w=w, stack=stack)
    calls = [(aten.mm.default, (x, w.mT)), (aten.addmm.default, (bias, x, w.mT)), (aten.linear.default, (x, w, bias))]
    for func, args in calls:
        (found,) = products(func, args, known)
        assert found.view == WeightView("w", (6, 4))
        assert torch.equal(found.input, x) and found.input.data_ptr() == x.data_ptr()
    batched = products(aten.bmm.default, (many, stack), known)
    assert [one.view.index for one in batched] == [0, 1, 2]
    for i, one in enumerate(batched):
        assert torch.allclose(one.input @ one.view.read(stack).mT, many[i] @ stack[i])


def test_other_operators_are_no_products() -> None:
    w = torch.randn(4, 4)
    assert products(aten.mul.Tensor, (torch.ones(4, 4), w), owners(w=w)) == []
    assert products(aten.mm.default, (w, torch.ones(4, 4)), owners(w=w)) == []  # a weight from the left is none of ours


def test_a_view_names_its_matrix() -> None:
    assert WeightView("a.b.weight", (1, 1)).name == "a.b"
    assert WeightView("a.b.stack", (1, 1), 3).name == "a.b.stack.3"
    assert WeightView("a.weight_norm", (1, 1)).name == "a.weight_norm"
