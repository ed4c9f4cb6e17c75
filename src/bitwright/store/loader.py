"""Batches from a function of the user's: tensors, tuples in the order of the inputs, or dicts by their names.

They are held in memory, because what such a function gives may differ from call to call (shuffled, augmented) and
every pass over the samples must see the same. The first batch is also what a module is traced with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from bitwright.graph.network import Value
from bitwright.store.hooks import HookError, users_code
from bitwright.store.sample_set import Feed, Samples, SamplesError, gather, stacking_of

Batch = tuple[Tensor, ...] | dict[str, Tensor]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """What a loader gave: `batches` of inputs by place (tuples) or by name (dicts); never empty."""

    name: str
    batches: tuple[Batch, ...]

    @property
    def example(self) -> Batch:
        """The first batch, to trace a module with."""
        return self.batches[0]

    def samples(self, inputs: Sequence[Value], count: int | None = None) -> Samples:
        """The first `count` samples (None: all) for a network with these inputs; SamplesError where they do not fit."""
        feeds = [self._feed(number, batch, inputs) for number, batch in enumerate(self.batches)]
        shares = stacking_of(inputs).shares
        rows = [
            (number, row)
            for number, feed in enumerate(feeds)
            for row in range(self._rows(number, feed) if shares else 1)
        ][:count]

        def read(index: int) -> tuple[str, Feed]:
            number, row = rows[index]
            if not shares:
                return self._label(number), feeds[number]
            feed = {name: held[row : row + 1] if held.dim() else held for name, held in feeds[number].items()}
            return f"{self._label(number)}, sample {row}", feed

        return gather(inputs, len(rows), None, f"made by {self.name}", read)

    def _label(self, number: int) -> str:
        return f"{self.name}, batch {number}"

    def _feed(self, number: int, batch: Batch, inputs: Sequence[Value]) -> Feed:
        if isinstance(batch, dict):
            return batch
        if len(batch) != len(inputs):
            raise SamplesError(
                f"{self._label(number)}: {len(batch)} tensors, but the network has {len(inputs)} inputs "
                f"({', '.join(value.name for value in inputs)}); give exactly these, without labels"
            )
        return {value.name: tensor for value, tensor in zip(inputs, batch, strict=True)}

    def _rows(self, number: int, feed: Feed) -> int:
        rows = {name: len(tensor) for name, tensor in feed.items() if tensor.dim()}
        if len(set(rows.values())) > 1:
            said = ", ".join(f"{name} {count}" for name, count in rows.items())
            raise SamplesError(f"{self._label(number)}: the inputs have different numbers of samples ({said})")
        if 0 in rows.values():
            raise SamplesError(f"{self._label(number)}: an empty batch; give at least one sample in each")
        return next(iter(rows.values()), 1)


def run_loader(hook: Callable[..., Any], name: str, count: int | None = None) -> Loaded:
    """What the user's function gives, until `count` samples are there (None: all of it).

    Raises HookError where it gives nothing or something that is not tensors.
    """
    batches: list[Batch] = []
    held = 0
    with users_code(name):
        given = hook()
        if not isinstance(given, Iterable):
            raise HookError(f"{name}: gave a {type(given).__name__}; it must give batches that can be iterated over")
        for number, raw in enumerate(given):
            batch = _batch(f"{name}, batch {number}", raw)
            batches.append(batch)
            tensors = batch.values() if isinstance(batch, dict) else batch
            held += max((len(tensor) for tensor in tensors if tensor.dim()), default=1)
            if count is not None and held >= count:
                break
    if not batches:
        raise HookError(f"{name}: gave no batches; it must give at least one")
    return Loaded(name, tuple(batches))


def samples_from_hook(
    hook: Callable[..., Any], name: str, inputs: Sequence[Value], count: int | None = None
) -> Samples:
    """`count` samples from the user's function for a network with these inputs. Raises HookError and SamplesError."""
    return run_loader(hook, name, count).samples(inputs, count)


def _batch(label: str, raw: object) -> Batch:
    """A batch as plain tensors of its own, on the CPU."""
    if isinstance(raw, Mapping):
        made = {str(name): _tensor(f"{label}, {name}", held) for name, held in raw.items()}
    elif isinstance(raw, tuple | list):
        placed = tuple(_tensor(f"{label}, place {place}", held) for place, held in enumerate(raw))
        if placed:
            return placed
        made = {}
    else:
        return (_tensor(label, raw),)
    if not made:
        raise HookError(f"{label}: holds no tensors; give the network's inputs")
    return made


def _tensor(label: str, held: object) -> Tensor:
    if isinstance(held, Tensor):
        return held.detach().cpu().clone()
    if isinstance(held, np.ndarray | np.generic) and np.asarray(held).dtype.kind in "fiub":
        return torch.from_numpy(np.array(held))
    raise HookError(f"{label}: a {type(held).__name__}; give tensors or numpy arrays of numbers")
