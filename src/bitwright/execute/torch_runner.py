"""Runs a causal language model part by part: what comes before the blocks, one block, what comes after.

The model is a skeleton whose blocks have no data. To learn how the model calls its blocks (masks, rotary tables,
positions), it runs once with every block replaced by one that takes notes and passes its input on; those side inputs do
not depend on the stream. Where they depend on the tokens (embeddings for every layer, routers that look a word up) it
runs so for every batch anew, and what is outside the blocks stays in memory. The same trick runs the suffix: the last
block hands out the finished stream.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call

from bitwright.execute.mixed import mixed_products
from bitwright.graph import Call, Graph, TraceError, capture_call


@runtime_checkable  # for the type check under pytest
class Weights(Protocol):
    """What is needed of a Source: the model without weights, and its parameters by name; ties as alias -> name."""

    def skeleton(self) -> nn.Module: ...

    def parameters(self) -> Mapping[str, object]: ...

    def tied(self) -> Mapping[str, str]: ...

    def read(self, names: Iterable[str]) -> dict[str, Tensor]: ...


@final
class TorchRunner:
    """A model that is never whole in memory.

    `dtype` is what activations are held in, `weights` what the matrices of the blocks' linears are held and multiplied
    in (see `mixed.py`); everything else is in `dtype`.
    """

    def __init__(self, source: Weights, graph: Graph, dtype: torch.dtype, weights: torch.dtype | None = None) -> None:
        self.graph, self.dtype, self.weights = graph, dtype, weights or dtype
        self._source = source
        self._model = source.skeleton()
        self._modules = dict(self._model.named_modules())
        self._calls: dict[tuple[int, int], tuple[Call, ...]] = {}

    def load_outside(self) -> None:
        """Read everything outside the blocks."""
        inside = {name for block in self.graph.blocks for name in block.parameters}
        names = [name for name in self._source.parameters() if name not in inside]
        _assign(self._model, self._source.read(names), self._source.tied(), self.dtype)

    def drop_outside(self) -> None:
        """Give the memory of the embeddings and the head back, unless the blocks' side inputs are made of them."""
        if self.graph.tells_tokens:
            return
        inside = {name for block in self.graph.blocks for name in block.parameters}
        for name, parameter in list(self._model.named_parameters(remove_duplicate=False)):
            if name not in inside:
                _set(self._model, name, nn.Parameter(parameter.to("meta"), requires_grad=False))

    def block(self, index: int, weights: Mapping[str, Tensor]) -> nn.Module:
        """A fresh copy of a block with these weights (all of the block's, by their full names)."""
        block = self.graph.blocks[index]
        module: nn.Module = copy.deepcopy(self._modules[block.name])
        matrices = {linear.view.parameter for linear in block.linears}
        for names, dtype in ((matrices & weights.keys(), self.weights), (weights.keys() - matrices, self.dtype)):
            tensors = {name.removeprefix(block.name + "."): weights[name] for name in sorted(names)}
            _assign(module, tensors, {}, dtype)
        module.eval()
        return module

    def first_stream(self, tokens: Int64[Tensor, "rows length"]) -> Float[Tensor, "rows length ..."]:
        """What the first block is given for these tokens; `load_outside` comes before."""
        call = self._note_calls(tokens)[0]
        return self.graph.stream.stored(call.leaves[call.stream], {}, None)

    def call(self, index: int, tokens: Int64[Tensor, "rows length"]) -> Call:
        """How the model calls a block for these tokens; known once a batch of this size was noted, if not only then."""
        if self.graph.tells_tokens:
            return self._note_calls(tokens, index + 1)[index].without_stream()
        rows, length = tokens.shape
        if (rows, length) not in self._calls:
            self._note_calls(tokens)
        return self._calls[rows, length][index]

    def note_calls(self, rows: int, length: int) -> None:
        """Learn the calls for this batch size, while what is outside the blocks is in memory."""
        if not self.graph.tells_tokens and (rows, length) not in self._calls:
            self._note_calls(torch.zeros((rows, length), dtype=torch.int64))

    def run(
        self,
        index: int,
        module: nn.Module,
        stream: Float[Tensor, "rows length ..."],
        tokens: Int64[Tensor, "rows length"],
    ) -> Tensor:
        """The stream behind a block."""
        with torch.no_grad(), mixed_products() if self.weights != self.dtype else nullcontext():
            return self.through(index, module, stream, tokens, {})

    def through(
        self,
        index: int,
        module: nn.Module,
        stream: Float[Tensor, "rows length ..."],
        tokens: Int64[Tensor, "rows length"],
        weights: Mapping[str, Tensor],
    ) -> Tensor:
        """The same with these parameters, by their full names, in the place of the block's; differentiable in them."""
        block, kind = self.graph.blocks[index], self.graph.stream
        before = stream.to(self.dtype)
        call = self.call(index, tokens).with_shelf(kind.left(before, block.finds))
        args, kwargs = call.arguments(kind.called(before))
        inside = {name.removeprefix(block.name + "."): tensor for name, tensor in weights.items()}
        made = functional_call(module, inside, args, kwargs) if inside else module(*args, **kwargs)
        return kind.stored(block.returned.stream(made), call.on_shelf(), before)

    def logits(self, tokens: Int64[Tensor, "rows length"], stream: Tensor) -> Float[Tensor, "rows length vocabulary"]:
        """The model's output for the finished stream; differentiable in a stream that asks for it."""

        def hand_out(index: int, call: Call) -> Tensor:
            last = index == len(self.graph.blocks) - 1
            return self.graph.stream.called(stream.to(self.dtype)) if last else call.leaves[call.stream]

        logits: Tensor = self._run_around(tokens, hand_out, stream.requires_grad).logits
        return logits

    def _note_calls(self, tokens: Int64[Tensor, "rows length"], count: int | None = None) -> tuple[Call, ...]:
        """The calls of the first `count` blocks (None: all), which hand their streams on."""
        calls: list[Call] = []
        count = len(self.graph.blocks) if count is None else count

        def note(index: int, call: Call) -> Tensor:
            calls.append(call)
            stream: Tensor = call.leaves[call.stream]
            if len(calls) == count:
                raise _Enough
            return stream

        with suppress(_Enough):
            self._run_around(tokens, note)
        if self.graph.tells_tokens:
            return tuple(calls)
        rows, length = tokens.shape
        noted = tuple(call.without_stream() for call in calls)
        for block, one, other in zip(self.graph.blocks, self._calls.get((rows, length), noted), noted, strict=True):
            if not _same(one, other):
                raise TraceError(
                    f"{block.name}: its side inputs follow the tokens, but the trace did not show it: report this model"
                )
        self._calls[rows, length] = noted
        return tuple(calls)

    def _run_around(self, tokens: Tensor, between: Any, learns: bool = False) -> Any:
        """Run the model with `between(index, call)` in the place of every block; `learns`: keep track of gradients."""
        for index, block in enumerate(self.graph.blocks):

            def forward(*args: Any, _index: int = index, **kwargs: Any) -> Any:
                stream = between(_index, capture_call(args, kwargs))
                return self.graph.blocks[_index].returned.with_stream(stream)

            self._modules[block.name].forward = forward
        try:
            with torch.set_grad_enabled(learns):
                return self._model(input_ids=tokens, use_cache=False)
        finally:
            for block in self.graph.blocks:
                del self._modules[block.name].forward


def _same(one: Call, other: Call) -> bool:
    """Whether two calls give a block the same tensors besides the stream."""
    pairs = zip(one.leaves, other.leaves, strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor))


class _Enough(Exception):
    """All calls have been noted."""


def _assign(module: nn.Module, tensors: Mapping[str, Tensor], tied: Mapping[str, str], dtype: torch.dtype) -> None:
    """Put tensors in the place of the parameters and buffers of these names, and of their tied aliases."""
    buffers = {name for name, _ in module.named_buffers()}
    for name, tensor in tensors.items():
        value = tensor.to(dtype) if tensor.is_floating_point() and name not in buffers else tensor
        parameter = value if name in buffers else nn.Parameter(value, requires_grad=False)
        for alias in (name, *(a for a, stored in tied.items() if stored == name)):
            _set(module, alias, parameter)


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, key = name.rpartition(".")
    setattr(module.get_submodule(path), key, value)
