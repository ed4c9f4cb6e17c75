"""How an engine computes with codes: what is whole numbers, what is float32, and where sixteen bits overflow.

Two engines run one file and give different numbers, because the file says what is multiplied, not how sums become
codes again. This is that difference as data. Sums of products themselves are exact in 32 bits on every engine but for
one case: processors without VNNI add two products of an unsigned with a signed code in 16 bits, which saturate.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import final


class Scaling(Enum):
    """How a result on integer codes becomes codes of another scale; the value is how reports spell it."""

    FLOAT = "float"  # to float32, computed on there (a bias is a float), then divided by the scale and rounded
    MULTIPLY = "multiply"  # a sum of integers (the bias is one) times one float32 factor, rounded half to even
    SHIFT = "shift"  # an integer multiplier and a shift, rounded half away from zero


@final
@dataclass(frozen=True, slots=True)
class Arithmetic:
    """`products`: of convolutions and matrix products. `blends`: of sums, products and means element by element.

    With MULTIPLY a convolution runs in integers only where its output is quantized, and a clamp before a quantizer
    only where it clamps nothing that the codes can hold. `saturates`: pairs of products are added in 16 bits.
    """

    products: Scaling
    blends: Scaling
    saturates: bool = False
