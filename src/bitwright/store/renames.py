"""From checkpoint tensors to model tensors and back.

A checkpoint's names are not always the model's: a prefix is missing, a name is older than the code, or the model holds
in one tensor what the file keeps in many (the experts of a mixture: 2 x 8 matrices become one [8, 2 * inter, hidden]).
transformers describes all this as data: renames, and converters (stack, concatenate, chunk, transpose ...) that know
their reverse. ``plan_renames`` applies that description to the names and shapes in the file headers, on meta tensors.
The result says which checkpoint tensors make which model tensor, so single tensors can be read and written back.

Source: transformers 5, core_model_loading.convert_and_load_state_dict_in_model and revert_weight_conversion.
Differs: the reverse gives the names that lie in the file, not the names that the patterns would invent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bitwright.store.safetensors_file import TensorShape
from bitwright.store.source_error import SourceError

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightConverter, WeightTransform

Collected = dict[str, list[Tensor]]
# what the loader's operations raise where they have no reverse, or none for these shapes
_IRREVERSIBLE = (NotImplementedError, ValueError, RuntimeError, KeyError, IndexError, TypeError)


@dataclass(frozen=True, slots=True)
class Conversion:
    """Checkpoint tensors that become model tensors together; without a converter, one tensor under another name.

    ``sources`` and ``targets`` are pairs of a pattern of the converter and a full name.
    """

    sources: tuple[tuple[str, str], ...]
    targets: tuple[tuple[str, str], ...]
    dtype: torch.dtype
    converter: WeightConverter | None = None

    @property
    def checkpoint_names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.sources)

    @property
    def model_names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.targets)


@dataclass(frozen=True, slots=True)
class Rows:
    """Which part of a tensor [matrices, out, in] a checkpoint tensor holds: rows of one of the matrices."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Renames:
    """All conversions of one checkpoint by model name, what they give, and the tensors that the model does not use."""

    model: PreTrainedModel
    stored: Mapping[str, TensorShape]
    by_name: Mapping[str, Conversion]
    shapes: Mapping[str, TensorShape]
    unused: tuple[str, ...]

    def forward(self, conversion: Conversion, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Checkpoint tensors -> model tensors, in the model's dtype."""
        return {name: tensor for _, name, tensor in _apply(self.model, conversion, tensors)}

    def backward(self, conversion: Conversion, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Model tensors -> checkpoint tensors in the checkpoint's shapes; dtypes stay as they come."""
        if conversion.converter is None:
            return {conversion.sources[0][1]: tensors[conversion.targets[0][1]]}
        try:
            pieces = dict(_split(self.model, conversion, tensors))
        except _IRREVERSIBLE as error:
            raise _irreversible(conversion, str(error)) from error
        found: dict[str, Tensor] = {}
        for name in conversion.checkpoint_names:
            piece, shape = pieces.get(name), self.stored[name].shape
            if piece is None or _squeezed(piece.shape) != _squeezed(shape):  # the reverse drops axes of size 1
                raise _irreversible(conversion, f"it gives no tensor of shape {shape} for {name}")
            found[name] = piece.reshape(shape).clone(memory_format=torch.contiguous_format)  # pieces share memory
        return found

    def rows(self, name: str) -> dict[str, Rows]:
        """Where the rows of a tensor of stacked matrices lie: by checkpoint tensor, the rows that are all it holds.

        Empty where the checkpoint keeps anything else: the stack in one piece, matrices transposed, other tensors too.
        """
        conversion = self.by_name[name]
        shape = self.shapes[name].shape
        if conversion.converter is None or conversion.model_names != (name,) or len(shape) != 3:
            return {}
        numbers = torch.arange(shape[0] * shape[1]).reshape(shape[0], shape[1], 1).expand(-1, -1, 2)  # of every row
        try:
            whole = dict(_split(self.model, conversion, {name: torch.empty(shape, device="meta")}))
            pieces = dict(_split(self.model, conversion, {name: numbers}))
        except _IRREVERSIBLE:
            return {}
        found: dict[str, Rows] = {}
        for stored in conversion.checkpoint_names:
            piece, full = pieces.get(stored), whole.get(stored)
            size = self.stored[stored].shape
            if piece is None or full is None or _squeezed(full.shape) != _squeezed(size) or size[1:] != shape[2:]:
                return {}
            rows = _rows(piece.reshape(-1, 2), shape[1])
            if rows is None:
                return {}
            found[stored] = rows
        return found


def plan_renames(model: PreTrainedModel, stored: Mapping[str, TensorShape]) -> Renames:
    """How the checkpoint tensors ``stored`` become tensors of ``model`` (on meta). Reads no weights."""
    conversions, unused = _collect(model, stored)
    by_name: dict[str, Conversion] = {}
    shapes: dict[str, TensorShape] = {}
    for conversion in conversions:
        tensors = {
            name: torch.empty(stored[name].shape, dtype=stored[name].dtype, device="meta")
            for name in conversion.checkpoint_names
        }
        try:
            made = _apply(model, conversion, tensors)
        except (ValueError, RuntimeError, KeyError, IndexError, TypeError) as error:
            raise SourceError(f"{_listed(conversion)} cannot become {conversion.model_names[0]}: {error}") from error
        whole = replace(conversion, targets=tuple((pattern, name) for pattern, name, _ in made))
        by_name |= dict.fromkeys(whole.model_names, whole)
        shapes |= {name: TensorShape(tuple(tensor.shape), tensor.dtype) for _, name, tensor in made}
    return Renames(model, stored, by_name, shapes, unused)


def _collect(model: PreTrainedModel, stored: Mapping[str, TensorShape]) -> tuple[list[Conversion], tuple[str, ...]]:
    """Conversions with their first target alone, and unused names: the loader's own loop, without the loading."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, dot_natural_key

    transforms = get_model_conversion_mapping(model)
    converters = {p: t for t in transforms if isinstance(t, WeightConverter) for p in t.source_patterns}
    state = dict(model.state_dict())
    groups: dict[str, list[tuple[str, str]]] = {}
    unused: list[str] = []
    for name in sorted(stored, key=dot_natural_key):  # the order in which experts are stacked
        target, pattern = _rename(model, name, transforms, state)
        is_taken = target in groups and (pattern is None or groups[target][0][0] not in converters)
        if target not in state or is_taken:
            unused.append(name)
        else:
            groups.setdefault(target, []).append((pattern or name, name))
    conversions = [
        Conversion(tuple(sources), ((target, target),), state[target].dtype, converters.get(sources[0][0]))
        for target, sources in groups.items()
    ]
    return conversions, tuple(unused)


def _rename(
    model: PreTrainedModel, name: str, transforms: list[WeightTransform], state: dict[str, Tensor]
) -> tuple[str, str | None]:
    """The model tensor that ``name`` goes into (the first, if several), and the converter's pattern that says so."""
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
    if target not in state and name in state:  # right already; a pattern for older checkpoints matched by accident
        target, pattern = rename_source_key(name, [], [], model.base_model_prefix, state)
    return target, pattern


def _apply(
    model: PreTrainedModel, conversion: Conversion, tensors: Mapping[str, Tensor]
) -> list[tuple[str, str, Tensor]]:
    """(pattern, model name, tensor) of everything that the conversion makes."""
    first = conversion.targets[0][1]
    collected: Collected = {}
    for pattern, name in conversion.sources:
        collected.setdefault(pattern, []).append(tensors[name].to(conversion.dtype))
    if conversion.converter is None:
        return [(first, first, collected[conversion.sources[0][0]][0])]
    outputs = _run(model, conversion.converter, collected, first)
    prefix, suffix = "", ""
    for pattern in outputs:
        if pattern in first:
            prefix, _, suffix = first.partition(pattern)
            break
    return [(pattern, prefix + pattern + suffix, tensor) for pattern, tensor in outputs.items()]


def _split(
    model: PreTrainedModel, conversion: Conversion, tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor | None]]:
    """Each checkpoint name with what the reverse operations give for it."""
    forward = deepcopy(conversion.converter)  # reverse_transform writes into the lists of the original
    assert forward is not None
    reverse = forward.reverse_transform()
    names = dict(conversion.targets)
    patterns = zip(reverse.source_patterns, forward.target_patterns, strict=True)
    collected = {source: [tensors[names[target]]] for source, target in patterns}
    outputs = _run(model, reverse, collected, conversion.targets[0][1])
    for source, target in zip(forward.source_patterns, reverse.target_patterns, strict=True):
        inside = [name for pattern, name in conversion.sources if pattern == source]
        for number, name in enumerate(inside):
            yield name, outputs.get(target.replace("*", str(number)))


def _run(model: PreTrainedModel, converter: WeightTransform, collected: Collected, full_name: str) -> dict[str, Tensor]:
    from transformers.core_model_loading import WeightConverter

    assert isinstance(converter, WeightConverter)
    outputs: dict[str, Tensor] | Collected = collected
    for operation in converter.operations:
        outputs = operation.convert(
            outputs,
            source_patterns=converter.source_patterns,
            target_patterns=converter.target_patterns,
            full_layer_name=full_name,
            model=model,
            config=model.config,
            missing_keys=None,
        )
    return {key: value[0] if isinstance(value, list) else value for key, value in outputs.items()}


def _rows(numbers: Tensor, height: int) -> Rows | None:
    """The rows of one matrix of this height that have these numbers, if they are in order; a number for each column."""
    first, count = int(numbers[0, 0]), len(numbers)
    index, start = divmod(first, height)
    is_in_order = torch.equal(numbers, torch.arange(first, first + count)[:, None].expand(-1, 2))
    return Rows(index, start, start + count) if is_in_order and start + count <= height else None


def _irreversible(conversion: Conversion, reason: str) -> SourceError:
    return SourceError(
        f"{', '.join(conversion.model_names)}: transformers has no exact way back to {_listed(conversion)} ({reason}). "
        f"Load the model and save it with save_pretrained(save_original_format=False), then start from that."
    )


def _squeezed(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _listed(conversion: Conversion) -> str:
    names = conversion.checkpoint_names
    return names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]} ({len(names)} tensors)"
