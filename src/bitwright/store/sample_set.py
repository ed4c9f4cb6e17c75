"""Samples to calibrate or to measure a whole network with: read one by one, handed out in batches, checked on the way.

A sample is what one call of the network takes, with a first axis of 1 where samples may share a batch. They may where
the first axis of all inputs is free, or fixed to one and the same number, which is then the size of every batch. Else
(a recurrent state whose batch axis is the second, say) every sample is a call of its own. Nothing is kept in memory
that the reader does not keep: a folder of pictures is decoded as it is passed over, again on every pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from bitwright.graph.network import Value
from bitwright.store.files import tensors_digest

Feed = dict[str, Tensor]
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class SamplesError(ValueError):
    """Samples cannot be used: none there, unreadable, or not what the network takes. Says which one and what to do."""


@final
@dataclass(frozen=True, slots=True)
class Stacking:
    """How samples make batches: whether they may share one, and how many must (None: any number)."""

    shares: bool
    fixed: int | None


@final
@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """`count` samples; `preprocessing` says in words how they were made from what the user gave.

    `most`: how many there are room for in a batch, whatever size is asked for; None: any number.
    Reading may raise SamplesError for a sample that is damaged or does not fit.
    """

    count: int
    preprocessing: str
    stacking: Stacking
    _read: Callable[[int], tuple[str, Feed]]
    most: int | None = None

    def batches(self, size: int) -> Iterator[Feed]:
        """All samples in order, at most `size` in a batch, by the names of the network's inputs.

        A network with a fixed batch gets batches of that size. Samples of different shapes never share a batch, nor do
        samples with different scalars.
        """
        if size < 1:
            raise SamplesError(f"batches of {size} samples; at least 1 is needed")
        if not self.stacking.shares:
            yield from (self._read(index)[1] for index in range(self.count))
            return
        size = self._size(size)
        held: list[Feed] = []
        for index in range(self.count):
            _, feed = self._read(index)
            if held and (len(held) == size or not _are_alike(held[0], feed)):
                yield self._stack(held)
                held = []
            held.append(feed)
        if held:
            yield self._stack(held)

    def _size(self, asked: int) -> int:
        """How many samples a batch has at most."""
        if not self.stacking.shares:
            return 1
        return self.stacking.fixed or min(asked, self.most or asked)

    def limited(self, most: int) -> Samples:
        """The same in batches of at most so many samples, unless the network fixes another number."""
        return replace(self, most=most)

    def first(self, size: int = 1) -> Feed:
        """The first batch."""
        return next(self.batches(size))

    def at(self, indices: Sequence[int]) -> Samples:
        """These samples alone, in this order. For a network with a fixed batch their number is a multiple of it."""
        return replace(self, count=len(indices), _read=lambda place: self._read(indices[place]))

    def dealt(self, wanted: int, size: int) -> Samples:
        """At most `wanted` samples from all places, in an order in which each batch of `size` has some from everywhere.

        Sets are often sorted (by class, by the step of a diffusion), so neither the first samples nor those that stand
        together speak for the rest. Whole batches where the network fixes them.
        """
        size = self._size(size)
        count = min(self.count, wanted)
        if self.stacking.fixed:
            count = max(size, count - count % size)
        places = [place * self.count // count for place in range(count)]
        batches = -(-count // size)
        return self.at([places[place] for first in range(batches) for place in range(first, count, batches)])

    def name(self, index: int) -> str:
        """What the sample is called in errors: its file, and its place there. Reads it."""
        return self._read(index)[0]

    def digest(self) -> str:
        """sha256 over the contents of all samples in order, however they are batched. Reads every one."""
        total = hashlib.sha256()
        for index in range(self.count):
            total.update(tensors_digest(self._read(index)[1]).encode())
        return total.hexdigest()

    def _stack(self, feeds: Sequence[Feed]) -> Feed:
        if self.stacking.fixed is not None and len(feeds) != self.stacking.fixed:
            raise SamplesError(
                f"the network takes batches of {self.stacking.fixed} samples, but only {len(feeds)} samples in a row "
                f"have the same shapes; give samples of one shape, or a network with a free batch axis"
            )
        first = feeds[0]
        return {n: torch.cat([feed[n] for feed in feeds]) if first[n].dim() else first[n] for n in first}


def stacking_of(inputs: Sequence[Value]) -> Stacking:
    """How samples of these inputs make batches; scalars do not count."""
    sizes = {value.shape[0] for value in inputs if value.shape}
    if len(sizes) > 1:
        return Stacking(shares=False, fixed=None)
    return Stacking(shares=True, fixed=next(iter(sizes), None))


def gather(
    inputs: Sequence[Value], total: int, wanted: int | None, preprocessing: str, read: Callable[[int], tuple[str, Feed]]
) -> Samples:
    """Samples from a reader of the `total` that there are, which gives what one is called beside its tensors.

    `wanted` of them (None: all; no more than there are), spaced evenly. A network with a fixed batch gets a multiple
    of it. Raises SamplesError where that leaves none.
    """
    if wanted is not None and wanted < 1:
        raise SamplesError(f"{wanted} samples asked for; at least 1 is needed")
    stacking = stacking_of(inputs)
    count = total if wanted is None else min(total, wanted)
    fixed = stacking.fixed or 1
    if count < fixed:
        raise SamplesError(f"the network takes batches of {fixed} samples, but there are only {count}; give more")
    if count % fixed:
        preprocessing += f"; {count % fixed} left over, because the network takes batches of {fixed}"
        count -= count % fixed

    def checked(index: int) -> tuple[str, Feed]:
        label, feed = read(index * total // count)
        return label, check_feed(label, feed, inputs, stacking.shares)

    return Samples(count, preprocessing, stacking, checked)


def pick(label: str, made: Mapping[str, Any], inputs: Sequence[Value]) -> Feed:
    """Of what a processor made of a sample, what the network takes; SamplesError where an input is not there."""
    lacking = [value.name for value in inputs if value.name not in made]
    if lacking:
        raise SamplesError(
            f"{label}: {', '.join(made)} can be made of it, but the network takes "
            f"{', '.join(value.name for value in inputs)}; write a --loader that makes {lacking[0]}"
        )
    return {value.name: torch.as_tensor(made[value.name]) for value in inputs}


def check_feed(label: str, feed: Mapping[str, Tensor], inputs: Sequence[Value], shares: bool) -> Feed:
    """The feed in the order and the types of the inputs, or SamplesError; `shares`: its first axis counts samples."""
    unknown = sorted(feed.keys() - {value.name for value in inputs})
    names = ", ".join(value.name for value in inputs)
    if unknown:
        raise SamplesError(f"{label}: {unknown[0]} is no input of the network; its inputs are {names}")
    made: Feed = {}
    for value in inputs:
        if value.name not in feed:
            raise SamplesError(
                f"{label}: the input {value.name} {describe(value.shape)} is missing (found: "
                f"{', '.join(feed) or 'nothing'}); the network's inputs are {names}, and all must be given"
            )
        check_shape(label, value, feed[value.name].shape, shares)
        tensor = cast(label, value, feed[value.name])
        if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            raise SamplesError(f"{label}: {value.name} holds NaN; leave this sample out or mend it")
        made[value.name] = tensor
    return made


def check_shape(label: str, value: Value, found: Sequence[int], shares: bool) -> None:
    """SamplesError unless a shape is what an input takes; the first axis counts for nothing where samples share it."""
    if value.shape is None:
        return
    allowed = (None, *value.shape[1:]) if shares and value.shape else value.shape
    if 0 in found:
        raise SamplesError(f"{label}: {value.name} is empty, its shape is {list(found)}; leave this sample out")
    fits = len(allowed) == len(found) and all(a is None or a == f for a, f in zip(allowed, found, strict=True))
    if not fits:
        raise SamplesError(
            f"{label}: {value.name} has shape {list(found)}, but the network takes {describe(allowed)}; resize, crop "
            f"or transpose the samples, or leave this one out"
        )


def cast(label: str, value: Value, tensor: Tensor) -> Tensor:
    """The tensor in the type of the input where that changes no meaning: float to float, integer to a wide enough one.

    Raises SamplesError elsewhere: bytes of a picture are not what a network of floats was trained on.
    """
    found = str(tensor.dtype).removeprefix("torch.")
    if value.dtype in (found, "unknown"):
        return tensor
    kinds = {str(d).removeprefix("torch."): d for d in (*_INTEGERS, torch.float16, torch.float32, torch.float64)}
    wanted = kinds.get(value.dtype)
    if wanted is not None and tensor.is_floating_point() and wanted.is_floating_point:
        made = tensor.to(wanted)
        if bool((torch.isinf(made) & ~torch.isinf(tensor)).any()):
            raise SamplesError(
                f"{label}: {value.name} is {found} and holds numbers up to {float(tensor.abs().max()):.3g}, which the "
                f"network's {value.dtype} cannot hold; scale them as the model was trained"
            )
        return made
    if wanted in _INTEGERS and tensor.dtype in _INTEGERS:
        made = tensor.to(wanted)
        if bool((made.to(torch.int64) == tensor.to(torch.int64)).all()):
            return made
    raise SamplesError(
        f"{label}: {value.name} is {found}, but the network takes {value.dtype}; convert it as the model was trained "
        f"(bytes to floats usually need scaling) and save it as {value.dtype}"
    )


def describe(shape: Sequence[int | None] | None) -> str:
    """A shape in words: `[any, 3, 224, 224]`."""
    if shape is None:
        return "of any shape"
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"


def only_input(inputs: Sequence[Value], what: str) -> Value:
    """The one input, or SamplesError; `what` needs a network with one."""
    if len(inputs) != 1:
        raise SamplesError(
            f"{what} can be given to a network with one input, and this one has {len(inputs)} "
            f"({', '.join(value.name for value in inputs)}); give .npz files with an array for each, or --loader"
        )
    return inputs[0]


def _are_alike(one: Feed, other: Feed) -> bool:
    return all(
        other[name].shape[1:] == tensor.shape[1:] and (tensor.dim() > 0 or torch.equal(tensor, other[name]))
        for name, tensor in one.items()
    )
