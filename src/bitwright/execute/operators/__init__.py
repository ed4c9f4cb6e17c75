"""The operators of ONNX as differentiable functions of tensors, in tables by kind."""

from collections.abc import Mapping

from bitwright.execute.operators.linear import LINEAR
from bitwright.execute.operators.movement import MOVEMENT
from bitwright.execute.operators.operator import Inputs, Operator, UnsupportedOperator
from bitwright.execute.operators.pointwise import MICROSOFT, POINTWISE
from bitwright.execute.operators.pooling import POOLING
from bitwright.execute.operators.reduction import REDUCTIONS

# (domain, operator) -> its function
OPERATORS: Mapping[tuple[str, str], Operator] = {
    **{("", name): run for table in (LINEAR, MOVEMENT, POINTWISE, POOLING, REDUCTIONS) for name, run in table.items()},
    **{("com.microsoft", name): run for name, run in MICROSOFT.items()},
}

__all__ = ["OPERATORS", "Inputs", "Operator", "UnsupportedOperator"]
