"""Weights in codes whose scales lie in blocks along the columns, in the two ways that ONNX files hold them.

`Blocks` is a weight as such files see it: codes without a sign, one scale and one zero for each block of a row. Scales
that are shared by more columns are repeated; no number changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int16
from torch import Tensor

from bitwright.export.exporter import ExportError
from bitwright.numerics import Int
from bitwright.store.quantized import StoredWeight

BLOCKS = (256, 128, 64, 32, 16)
USUAL = 128  # columns in a block where the scale is that of the whole row
WIDTHS = (2, 4, 8)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """value = (code - zero) * scale, `size` columns of a row at a time; the last block of a row may be shorter.

    `bits`: 2, 4 or 8. Codes and zeros are signed if `signed`. `zero` None: zero is 0 if signed, else the middle code.
    """

    codes: Int16[Tensor, "rows cols"]
    scale: Float[Tensor, "rows blocks"]
    zero: Int16[Tensor, "rows blocks"] | None
    bits: int
    size: int
    signed: bool


def blocks_of(weight: StoredWeight) -> Blocks:
    """A stored matrix as blocks. ExportError for one that is not in integers, or whose groups no block fits."""
    qtensor = weight.qtensor
    spec, params, (rows, cols) = qtensor.spec, qtensor.params, qtensor.shape
    if not isinstance(spec.format, Int) or spec.tile is None or params is None or len(weight.shape) != 2:
        raise ExportError(f"{weight.name}: stored as {spec}; only matrices in integers can be packed")
    if params.zero is not None and not isinstance(spec.zero and spec.zero.format, Int):
        raise ExportError(f"{weight.name}: its zeros are stored as {spec.zero}; packed weights have zeros in integers")
    if not spec.format.signed and params.zero is None:
        raise ExportError(f"{weight.name}: unsigned codes without a zero have no packed form; use has_zero or signed")
    width = spec.tile.size((rows, cols))[1]
    size = _block(width, cols)
    if size is None:
        raise ExportError(f"{weight.name}: groups of {width} columns; a block has {', '.join(map(str, BLOCKS))}")
    shape = (rows, cols)
    scale = spec.tile.spread(params.scale, shape)[:, ::size].contiguous()
    zero = None if params.zero is None else spec.tile.spread(params.zero, shape)[:, ::size].short()
    bits = next(bits for bits in WIDTHS if bits >= spec.format.width)
    return Blocks(qtensor.codes.short(), scale, zero, bits, size, spec.format.signed)


def _block(width: int, cols: int) -> int | None:
    """Columns in a block where `width` of `cols` columns share a scale; None where no block fits."""
    if width == cols:
        return next((size for size in reversed(BLOCKS) if size >= min(cols, USUAL)), None)
    return next((size for size in BLOCKS if math.gcd(size, width) == size), None)
