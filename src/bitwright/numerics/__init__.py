"""Number formats, tiles, fitters and the quantized tensor: torch only, no opinion on models."""

from bitwright.numerics.absmax import AbsMax
from bitwright.numerics.absmse import AbsMse
from bitwright.numerics.arithmetic import Arithmetic, Scaling
from bitwright.numerics.fitter import Fitter
from bitwright.numerics.format import Format
from bitwright.numerics.grid import BINARY, NF4, TERNARY, Grid
from bitwright.numerics.integer import Int
from bitwright.numerics.minifloat import E2M1, Float, Float8, Float8Kind, FloatKind, PowerOfTwo
from bitwright.numerics.minmax import MinMax
from bitwright.numerics.msegrid import MseGrid
from bitwright.numerics.qtensor import (
    Params,
    QTensor,
    assemble,
    may_cut_rows,
    quantize,
    row_ranges,
    stack_rows,
    store_params,
    to_scaled,
)
from bitwright.numerics.spec import Spec
from bitwright.numerics.tile import PER_ROW, PER_TENSOR, Tile, per_block, per_group

__all__ = [
    "BINARY",
    "E2M1",
    "NF4",
    "PER_ROW",
    "PER_TENSOR",
    "TERNARY",
    "AbsMax",
    "AbsMse",
    "Arithmetic",
    "Fitter",
    "Float",
    "Float8",
    "Float8Kind",
    "FloatKind",
    "Format",
    "Grid",
    "Int",
    "MinMax",
    "MseGrid",
    "Params",
    "PowerOfTwo",
    "QTensor",
    "Scaling",
    "Spec",
    "Tile",
    "assemble",
    "may_cut_rows",
    "per_block",
    "per_group",
    "quantize",
    "row_ranges",
    "stack_rows",
    "store_params",
    "to_scaled",
]
