"""A PyTorch module as an ONNX file, so that networks of both kinds take one path from here on.

`torch.onnx.export` traces the module and translates it. Its own clean-up also folds BatchNorm into convolutions; that
is left to us, because a BatchNorm says what its output looks like before any data are seen. So the clean-up is done
here with the same passes, but for that one: constants are computed, operators that do nothing are dropped. Traces of
the source code are removed. The first axis of the inputs stays free wherever the module allows it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import onnx_ir
import onnxscript
import onnxscript.optimizer
import torch
from onnx_ir.passes import common
from onnxscript.rewriter.rules import common as rules
from torch import Tensor, nn

from bitwright.store.source_error import SourceError

OPSET = 18
# What tracing raises for a module that it cannot follow; the module has been called before, so these are not its own.
CANNOT_TRACE = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
CLEAN_UP = (
    rules.add_0_rule,
    rules.sub_0_rule,
    rules.mul_by_1_rule,
    rules.div_by_1_rule,
    rules.dropout_inference_rule,
    rules.dropout_zero_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    rules.reshape_reshape_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.cast_constant_of_shape_rule,
    rules.cast_constant_of_shape_without_value_rule,
    rules.materialize_reshape_shape_rule,
    rules.min_max_rule,
    rules.max_min_rule,
    rules.remove_optional_bias_from_conv_rule,  # biases of zeros, which the translation adds
    rules.remove_optional_bias_from_conv_transpose_rule,
)


@final
@dataclass(frozen=True, slots=True)
class Exported:
    """Where a module went. `fixed_batch`: empty, or why the file takes batches of the example's size alone."""

    path: Path
    fixed_batch: str


def export_module(
    module: nn.Module,
    example: Sequence[Tensor] | Mapping[str, Tensor],
    path: Path,
    opset: int = OPSET,
    free_space: bool = False,
) -> Exported:
    """Write a module in eval mode to an ONNX file; `example` are its inputs by place or by name.

    Inputs whose first axis is as long as that of the first input share a free batch axis; rows of integers (token ids,
    masks) share a free length besides. `free_space` asks for free height and width of pictures too. What the module
    ties to the example's size stays fixed. Raises SourceError for a module in training mode and for one that cannot be
    traced.
    """
    if module.training:
        raise SourceError("the module is in training mode; call .eval() before it is exported")
    # Copies, because tracing takes one tensor that is given twice for one input.
    args: tuple[Tensor, ...] = () if isinstance(example, Mapping) else tuple(tensor.clone() for tensor in example)
    kwargs = {name: tensor.clone() for name, tensor in example.items()} if isinstance(example, Mapping) else {}
    with torch.no_grad(), _quiet():
        names = _output_names(module(*args, **kwargs))
        program, fixed = _trace_freest(module, args, kwargs, free_space)
        model = _translate(program, opset, names)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path, external_data=False)
    return Exported(path, fixed)


def _trace_freest(
    module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], free_space: bool
) -> tuple[Any, str]:
    """The module's program with as many free axes as it allows, and why the batch is fixed if it is."""
    inputs = (*args, *kwargs.values())
    rows = next((len(tensor) for tensor in inputs if tensor.dim()), None)
    texts = {tensor.shape[1] for tensor in inputs if _is_text(tensor)}
    why = "no input has an axis"
    for length in (*([texts.pop()] if len(texts) == 1 else []), None) if rows is not None else ():
        free = _Free(rows, length, free_space)
        arguments = tuple(map(free.doubled, args)), {name: free.doubled(tensor) for name, tensor in kwargs.items()}
        shapes = {name: free.axes(tensor) for name, tensor in kwargs.items()} if kwargs else tuple(map(free.axes, args))
        try:
            return torch.export.export(module, *arguments, dynamic_shapes=shapes, strict=False), ""
        except CANNOT_TRACE as error:
            why = f"tracing with a free batch failed: {_brief(error)}"
    try:
        return torch.export.export(module, args, kwargs, strict=False), why
    except CANNOT_TRACE as error:
        raise SourceError(
            f"the module cannot be traced by torch.export: {_brief(error)}; make an ONNX file of it another way"
        ) from error


def _is_text(tensor: Tensor) -> bool:
    """Whether an input is rows of integers."""
    return tensor.dim() == 2 and not tensor.is_floating_point()


class _Free:
    """Which axes of the inputs are free: those as long as the batch, those of text as long as a row, those of space."""

    def __init__(self, rows: int | None, length: int | None, space: bool) -> None:
        self._rows, self._length, self._space = rows, length, space
        self._batch_axis = torch.export.Dim("batch")

    def axes(self, tensor: Tensor) -> dict[int, Any]:
        free: dict[int, Any] = {0: self._batch_axis} if self._has_batch(tensor) else {}
        if _is_text(tensor) and tensor.shape[1] == self._length:
            free[1] = torch.export.Dim.DYNAMIC
        if self._space and tensor.dim() == 4:
            free |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
        return free

    def doubled(self, tensor: Tensor) -> Tensor:
        """The example for tracing, which takes a size of 1 for a constant: a batch of one is given twice."""
        return torch.cat([tensor, tensor]) if self._rows == 1 and self._has_batch(tensor) else tensor

    def _has_batch(self, tensor: Tensor) -> bool:
        return tensor.dim() > 0 and len(tensor) == self._rows


def _output_names(output: object) -> list[str] | None:
    """The names that a module gives its outputs, where it gives any and all are tensors; else the exporter's."""
    if isinstance(output, Mapping) and all(isinstance(value, Tensor) for value in output.values()):
        return [str(name) for name in output]
    return None


def _translate(program: Any, opset: int, names: list[str] | None) -> Any:
    options: Any = {"dynamo": True, "opset_version": opset, "optimize": False, "verbose": False, "output_names": names}
    try:
        exported = torch.onnx.export(program, **options)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise SourceError(f"the module cannot be translated to ONNX: {_brief(error)}") from error
    assert exported is not None
    model = exported.model
    onnx_ir.passes.Sequential(common.InlinePass())(model)
    _name_transposed(model.graph)
    for _ in range(2):  # what one pass uncovers, the next one uses
        onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True)
        onnxscript.rewriter.rewrite(model, CLEAN_UP)
    onnx_ir.passes.Sequential(
        common.IdentityEliminationPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.ClearMetadataAndDocStringPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)
    return exported


def _name_transposed(graph: Any) -> None:
    """Call what a transposed weight becomes, once it is computed, after the weight."""
    named: set[str] = set()
    for node in graph:
        weight = node.inputs[0] if node.inputs else None
        if node.op_type != "Transpose" or weight is None or weight.name not in graph.initializers:
            continue
        name = f"{weight.name}.transposed"
        if name not in named:  # of a weight that is transposed again and again, the first
            node.outputs[0].name = name
            named.add(name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps tracing and translation from writing to the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
