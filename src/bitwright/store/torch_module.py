"""A PyTorch module as an ONNX file, so that networks of both kinds take one path from here on.

`torch.onnx.export` traces the module and translates it. Its own clean-up also folds BatchNorm into convolutions; that
is left to us, because a BatchNorm says what its output looks like before any data are seen. So the clean-up is done
here with the same passes, but for that one: constants are computed, operators that do nothing are dropped. Traces of
the source code are removed. The first axis of the inputs stays free wherever the module allows it.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import onnx_ir
import onnxscript
import onnxscript.optimizer
import torch
from onnx_ir.passes import common
from onnxscript.rewriter.rules import common as rules
from torch import Tensor, nn

from bitwright.store.source_error import SourceError, first_line

OPSET = 18
BATCH = "batch"
ADVICE = re.compile(rf"{BATCH} = Dim\('{BATCH}', max=(\d+)\)")  # in the error for a batch that may not be of any size
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
    free_sizes: bool = False,
) -> Exported:
    """Write a module in eval mode to an ONNX file; `example` are its inputs by place or by name.

    Inputs whose first axis is as long as that of the first input share a free batch axis; rows of integers (token ids,
    masks) share a free length besides. `free_sizes` asks for free height and width of pictures and free length of
    sounds, too. What the module ties to the example's size stays fixed. Raises SourceError for a module in training
    mode and for one that cannot be traced.
    """
    if module.training:
        raise SourceError("the module is in training mode; call .eval() before it is exported")
    # Copies, because tracing takes one tensor that is given twice for one input.
    args: tuple[Tensor, ...] = () if isinstance(example, Mapping) else tuple(tensor.clone() for tensor in example)
    kwargs = {name: tensor.clone() for name, tensor in example.items()} if isinstance(example, Mapping) else {}
    with torch.no_grad(), _quiet():
        names = _output_names(module(*args, **kwargs))
        program, fixed = _trace_freest(module, args, kwargs, free_sizes)
        _save(_translate(program, opset, names), path)
    return Exported(path, fixed)


def _save(program: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(path, external_data=False)
    for value in program.model.graph.initializers.values():
        value.const_value = None  # rules of the clean-up remember the last graph that they saw


def export_placed(
    module: nn.Module, example: Mapping[str, Tensor], free: Mapping[str, Collection[int]], path: Path
) -> Path:
    """Write a module in eval mode that takes its inputs by place as `*args`, whose names and order are the example's.

    The axes in `free` may have any size; the first ones among them are the batch. Raises SourceError for a module that
    cannot be traced so.
    """

    def shapes(batch: Any) -> Any:
        return (tuple({axis: torch.export.Dim.DYNAMIC if axis else batch for axis in free[name]} for name in example),)

    with torch.no_grad(), _quiet():
        given = tuple(tensor.clone() for tensor in example.values())  # of a view, the base's sizes would count
        names = _output_names(module(*given))
        try:
            program = _trace(module, given, {}, shapes)
        except CANNOT_TRACE as error:
            raise SourceError(f"the module cannot be traced by torch.export: {first_line(error)}") from error
        _save(_translate(program, OPSET, names, list(example)), path)
    return path


def _trace_freest(
    module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], free_sizes: bool
) -> tuple[Any, str]:
    """The module's program with as many free axes as it allows, and why the batch is fixed if it is."""
    inputs = (*args, *kwargs.values())
    rows = next((len(tensor) for tensor in inputs if tensor.dim()), None)
    texts = {tensor.shape[1] for tensor in inputs if _is_text(tensor)}
    why = "no input has an axis"
    length = texts.pop() if len(texts) == 1 else None
    attempts = {(length, free_sizes): None, (length, False): None, (None, False): None} if rows is not None else {}
    for length, sizes in attempts:
        free = _Free(rows, length, sizes)
        given = tuple(map(free.doubled, args)), {name: free.doubled(tensor) for name, tensor in kwargs.items()}
        try:
            return _trace(module, *given, partial(free.shapes, args, kwargs)), ""
        except CANNOT_TRACE as error:
            why = f"tracing with a free batch failed: {first_line(error)}"
    try:
        return torch.export.export(module, args, kwargs, strict=False), why
    except CANNOT_TRACE as error:
        raise SourceError(
            f"the module cannot be traced by torch.export: {first_line(error)}; where it decides by the numbers that "
            "it is given, torch.onnx.export(..., dynamo=False) follows what it does with one example: if that is what "
            "it always does, make an ONNX file of it so, and give that"
        ) from error


def _trace(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], shapes: Callable[[Any], Any]) -> Any:
    """The module's program; `shapes` says which axes are free, given what stands for the batch.

    A module may treat large batches otherwise (diffusers does from 64 on); then they may have up to that many samples.
    """
    try:
        free = shapes(torch.export.Dim(BATCH))
        return torch.export.export(module, args, kwargs, dynamic_shapes=free, strict=False)
    except RuntimeError as error:
        most = ADVICE.search(str(error))
        if most is None:
            raise
        free = shapes(torch.export.Dim(BATCH, max=int(most[1])))
        return torch.export.export(module, args, kwargs, dynamic_shapes=free, strict=False)


def _is_text(tensor: Tensor) -> bool:
    """Whether an input is rows of integers."""
    return tensor.dim() == 2 and not tensor.is_floating_point()


class _Free:
    """Which axes of the inputs are free: those as long as the batch, those of text as long as a row, other sizes."""

    def __init__(self, rows: int | None, length: int | None, sizes: bool) -> None:
        self._rows, self._length, self._sizes = rows, length, sizes

    def shapes(self, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor], batch: Any) -> Any:
        """For each input, by name or by place, its free axes; `batch` stands for that of the samples."""
        named = {name: self._axes(tensor, batch) for name, tensor in kwargs.items()}
        return named or tuple(self._axes(tensor, batch) for tensor in args)

    def _axes(self, tensor: Tensor, batch: Any) -> dict[int, Any]:
        free: dict[int, Any] = {0: batch} if self._has_batch(tensor) else {}
        if _is_text(tensor) and tensor.shape[1] == self._length:
            free[1] = torch.export.Dim.DYNAMIC
        if self._sizes and tensor.dim() == 4:
            free |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
        if self._sizes and tensor.dim() in (2, 3):  # a sound or its features, or else the mask of a picture
            last = tensor.dim() if not tensor.is_floating_point() else 2
            free |= dict.fromkeys(range(1, last), torch.export.Dim.DYNAMIC)
        return free

    def doubled(self, tensor: Tensor) -> Tensor:
        """The example for tracing, which takes a size of 1 for a constant: a batch of one is given twice."""
        return torch.cat([tensor, tensor]) if self._rows == 1 and self._has_batch(tensor) else tensor

    def _has_batch(self, tensor: Tensor) -> bool:
        return tensor.dim() > 0 and len(tensor) == self._rows


def _output_names(output: object) -> list[str] | None:
    """The names that a module gives its outputs, numbered within tuples, where it gives any; else the exporter's."""
    if not isinstance(output, Mapping):
        return None
    names: list[str] = []
    for name, value in output.items():
        parts = value if isinstance(value, tuple | list) else (value,)
        if not all(isinstance(part, Tensor) for part in parts):
            return None
        names += [str(name)] if parts is not value else [f"{name}.{place}" for place in range(len(parts))]
    return names


def _translate(program: Any, opset: int, outputs: list[str] | None, inputs: list[str] | None = None) -> Any:
    options: Any = {"dynamo": True, "opset_version": opset, "optimize": False, "verbose": False}
    options |= {"output_names": outputs, "input_names": inputs}
    try:
        exported = torch.onnx.export(program, **options)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise SourceError(f"the module cannot be translated to ONNX: {first_line(cause)}") from error
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
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
