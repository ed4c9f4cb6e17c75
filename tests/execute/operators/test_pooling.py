"""Pools and resizing against ONNX Runtime."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bitwright.execute.interpret import UnsupportedOperator
from bitwright.execute.operators.pooling import POOLING
from execute.operators.single import Single, floats, ints, normal

IMAGE, SOUND = normal(2, 3, 9, 8), normal(2, 3, 10)
WINDOWS = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [1, 1], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
]
SCALES, NONE = floats(1, 1, 2, 1.5), None
SMALLER = floats(1, 1, 0.6, 0.5)
SYSTEMS = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
VOLUME = normal(2, 3, 5, 6, 4)
PLACES, VOLUME_PLACES = 0.8 * normal(2, 4, 5, 2), 0.8 * normal(2, 3, 2, 4, 3)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
CASES = [
    *(Single("MaxPool", [IMAGE], window) for window in WINDOWS),
    Single("MaxPool", [IMAGE], {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    Single("MaxPool", [SOUND], {"kernel_shape": [3], "pads": [1, 1]}),
    *(Single("AveragePool", [IMAGE], window) for window in WINDOWS),
    *(Single("AveragePool", [IMAGE], {**window, "count_include_pad": 1}) for window in WINDOWS[:2]),
    Single("AveragePool", [IMAGE], {**WINDOWS[3], "count_include_pad": 1}, opset=19),
    Single("AveragePool", [SOUND], {"kernel_shape": [3], "pads": [1, 1], "strides": [2]}),
    Single("GlobalAveragePool", [IMAGE]),
    Single("GlobalMaxPool", [SOUND]),
    *(
        Single(
            "Resize",
            [IMAGE, NONE, scales],
            {"mode": "nearest", "coordinate_transformation_mode": system, "nearest_mode": rounding},
        )
        for system, rounding, scales in itertools.product(SYSTEMS, ROUNDINGS, (SCALES, SMALLER))
    ),
    *(
        Single("Resize", [IMAGE, NONE, scales], {"mode": mode, "coordinate_transformation_mode": system})
        for mode, system, scales in itertools.product(("linear", "cubic"), SYSTEMS, (SCALES, SMALLER))
    ),
    *(
        Single(
            "Resize", [IMAGE, NONE, NONE, ints(2, 3, 13, 5)], {"mode": mode, "coordinate_transformation_mode": system}
        )
        for mode, system in itertools.product(("nearest", "linear"), SYSTEMS)
    ),
    Single("Resize", [IMAGE, NONE, floats(2.0, 3.0)], {"mode": "linear", "axes": [2, 3]}),
    Single(
        "Resize",
        [IMAGE, NONE, NONE, ints(2, 3, 1, 1)],
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    ),
    *(
        Single("GridSample", [IMAGE, PLACES], {"mode": mode, "padding_mode": around, "align_corners": corners}, opset)
        for (mode, opset), around, corners in itertools.product(
            (("bilinear", 16), ("nearest", 16), ("bicubic", 16), ("linear", 20), ("cubic", 20)),
            ("zeros", "border", "reflection"),
            (0, 1),
        )
    ),
    Single("GridSample", [IMAGE, PLACES], opset=20),
    Single("GridSample", [VOLUME, VOLUME_PLACES], {"mode": "linear"}, opset=20),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_gives_what_the_engine_gives(case: Single) -> None:
    case.check()


def test_every_operator_of_the_table_has_a_case() -> None:
    assert {case.op for case in CASES} == POOLING.keys()


@pytest.mark.parametrize(
    "case",
    [
        Single("MaxPool", [IMAGE], WINDOWS[0], outputs=2),
        Single("GridSample", [VOLUME, VOLUME_PLACES], {"mode": "cubic"}, opset=20),
        Single("AveragePool", [IMAGE], {"kernel_shape": [2, 2], "dilations": [2, 2]}, opset=19),
        Single("Resize", [IMAGE, NONE, SMALLER], {"mode": "linear", "antialias": 1}),
        Single(
            "Resize",
            [IMAGE, floats(*[0] * 4, *[1] * 4), SCALES],
            {"coordinate_transformation_mode": "tf_crop_and_resize"},
        ),
    ],
    ids=str,
)
def test_a_rare_form_is_refused_by_name(case: Single) -> None:
    with pytest.raises(UnsupportedOperator, match=case.op):
        case.interpreted()


def test_padding_never_wins_a_maximum() -> None:
    x = -np.ones((1, 1, 4, 4), np.float32)
    found = Single("MaxPool", [x], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}).interpreted()[0]
    assert (found == -1).all()
