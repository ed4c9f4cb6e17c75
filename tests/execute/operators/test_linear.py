"""Operators with weights against ONNX Runtime, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.execute.interpret import UnsupportedOperator, interpret
from bitwright.execute.operators.linear import LINEAR
from execute.operators.single import Single, normal, positive

IMAGE, SOUND, CUBE = normal(2, 4, 9, 8), normal(2, 4, 11), normal(1, 2, 5, 6, 4)
CASES = [
    Single("Conv", [IMAGE, normal(6, 4, 3, 3), normal(6)], {"pads": [1, 1, 1, 1]}),
    Single("Conv", [IMAGE, normal(6, 4, 3, 2)], {"strides": [2, 1], "dilations": [2, 3]}),
    Single("Conv", [IMAGE, normal(8, 1, 3, 3), normal(8)], {"group": 4, "pads": [0, 1, 2, 0]}),
    *(
        Single("Conv", [IMAGE, normal(6, 4, 3, 4)], {"auto_pad": mode, "strides": [2, 3]})
        for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    Single("Conv", [SOUND, normal(6, 4, 3), normal(6)], {"pads": [2, 0]}),
    Single("Conv", [CUBE, normal(3, 2, 2, 3, 1)], {"strides": [1, 2, 1]}),
    Single("ConvTranspose", [IMAGE, normal(4, 6, 3, 3), normal(6)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Single("ConvTranspose", [IMAGE, normal(4, 6, 2, 2)], {"strides": [2, 2]}),
    Single(
        "ConvTranspose",
        [IMAGE, normal(4, 3, 3, 3), normal(6)],
        {"group": 2, "strides": [2, 3], "pads": [0, 1, 2, 1], "output_padding": [1, 2], "dilations": [2, 1]},
    ),
    Single("ConvTranspose", [SOUND, normal(4, 2, 4)], {"strides": [3], "output_padding": [2]}),
    Single("Gemm", [normal(3, 4), normal(4, 5), normal(5)]),
    Single("Gemm", [normal(4, 3), normal(5, 4)], {"transA": 1, "transB": 1, "alpha": 0.5}),
    Single("Gemm", [normal(3, 4), normal(4, 5), normal(3, 1)], {"beta": 2.0}),
    Single("MatMul", [normal(2, 3, 4), normal(4, 5)]),
    Single("MatMul", [normal(2, 1, 3, 4), normal(5, 4, 2)]),
    Single("MatMul", [normal(4), normal(4, 2)]),
    Single("Einsum", [normal(2, 3, 4), normal(2, 5, 4)], {"equation": "bij,bkj->bik"}),
    Single("BatchNormalization", [IMAGE, normal(4), normal(4), normal(4), positive(4)], {"epsilon": 1e-3}),
    Single("BatchNormalization", [normal(3, 4), normal(4), normal(4), normal(4), positive(4)]),
    Single("LayerNormalization", [IMAGE, normal(8), normal(8)]),
    Single("LayerNormalization", [IMAGE, normal(9, 8)], {"axis": 2, "epsilon": 1e-2}, outputs=3),
    Single("InstanceNormalization", [IMAGE, normal(4), normal(4)]),
    Single("InstanceNormalization", [SOUND, normal(4), normal(4)], {"epsilon": 1e-2}),
    Single("GroupNormalization", [IMAGE, normal(2), normal(2)], {"num_groups": 2}),
    Single("GroupNormalization", [IMAGE, normal(4), normal(4)], {"num_groups": 2}, opset=21),
    Single("RMSNormalization", [IMAGE, normal(8)], opset=23),
    Single("SimplifiedLayerNormalization", [IMAGE, normal(8)], {"axis": -1, "epsilon": 1e-5}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_gives_what_the_engine_gives(case: Single) -> None:
    case.check()


def test_every_operator_of_the_table_has_a_case() -> None:
    assert {case.op for case in CASES} == LINEAR.keys()


@pytest.mark.parametrize("case", [case for case in CASES if case.op != "SimplifiedLayerNormalization"], ids=str)
def test_gradients_are_those_of_finite_differences(case: Single) -> None:
    node = case.node()
    inputs = [torch.from_numpy(array).double().requires_grad_() for array in case.inputs if array is not None]
    names = [name for name in node.inputs if name]

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        return interpret([node], dict(zip(names, tensors, strict=True)), ["o0"])["o0"]

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize(
    "case",
    [
        Single("ConvTranspose", [IMAGE, normal(4, 6, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        Single("ConvTranspose", [IMAGE, normal(4, 6, 3, 3)], {"output_shape": [18, 16], "strides": [2, 2]}),
        Single("BatchNormalization", [IMAGE, *(np.ones(4, np.float32),) * 4], {"training_mode": 1}),
    ],
    ids=str,
)
def test_a_rare_form_is_refused_by_name(case: Single) -> None:
    with pytest.raises(UnsupportedOperator, match=case.op):
        case.interpreted()
