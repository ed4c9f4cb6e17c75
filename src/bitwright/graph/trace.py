"""From a skeleton (a module without data) to a Graph.

The model runs once on meta tensors with every block's forward intercepted. Each block is recorded on its own; a block
whose control flow depends on data is recorded again on zero weights, which are lazily allocated and never touched, with
few tokens. Experts that no token reached are the other slices of a parameter of which one slice was seen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map

from bitwright.graph.blocks import Call, TraceError, capture_call, find_blocks, read_return
from bitwright.graph.followers import Followers
from bitwright.graph.graph import Block, Graph, Linear, Outside, Stream
from bitwright.graph.record import Record

_TOKENS = 8
# what operators raise where there is no data (numpy() a TypeError), and a block's own code where something is missing
_CANNOT_RUN = (RuntimeError, TypeError, LookupError, AttributeError)


def trace(skeleton: nn.Module) -> Graph:
    """The graph of a causal language model; `skeleton` has its parameters on meta and is left as it was.

    Raises TraceError naming the module and the operator that could not be followed.
    """
    model = copy.deepcopy(skeleton)
    found = find_blocks(model)
    _around_zero(model, {id(p) for _, block in found for p in block.parameters()})
    tokens = torch.zeros((1, _TOKENS), dtype=torch.int64)
    tracer = _Tracer(len(found), tokens)
    for name, block in found:
        tracer.intercept(name, block.to("meta"))
    try:
        with torch.no_grad(), tracer.of_tokens, tracer.of_blocks:
            model(input_ids=tokens, use_cache=False)
    except _Done:
        pass
    except _CANNOT_RUN as error:
        raise TraceError(f"the parts around the blocks cannot be traced: {error}") from error
    if [b.name for b in tracer.blocks] != [name for name, _ in found]:
        raise TraceError(f"{found[0][0]} and its siblings do not each run once, in order; they cannot be streamed")
    outside = _outside(model, {p for b in tracer.blocks for p in b.parameters})
    assert tracer.stream is not None
    return Graph(tuple(tracer.blocks), outside, tracer.stream, tracer.tells_tokens)


class _Done(Exception):
    """The last block has been recorded; what follows is of no interest."""


class _Tracer:
    """Records every block when the model calls it, and hands zeros on."""

    def __init__(self, count: int, tokens: Tensor) -> None:
        self.blocks: list[Block] = []
        self.of_tokens, self.of_blocks = Followers([tokens]), Followers()  # to be entered while the model runs
        self.tells_tokens = False
        self.stream: Stream | None = None
        self._count = count
        self._previous: Tensor | None = None

    def intercept(self, name: str, block: nn.Module) -> None:
        """Replace the block's forward by one that records it."""
        original = block.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            call = capture_call(args, kwargs)
            if self._previous is not None and call.leaves[call.stream] is not self._previous:
                raise TraceError(f"{name}: its input is not the output of the block before it; cannot be streamed")
            beside = call.without_stream().leaves
            self.tells_tokens |= self.of_tokens.include(beside)
            self.stream = _stream(tuple(call.leaves[call.stream].shape), name)
            read = self.of_blocks.read
            linears, output, notes = _record(name, block, original, call)
            if self.of_blocks.include(beside) or self.of_blocks.read > read:
                raise TraceError(f"{name} reads more of the blocks before it than their stream; cannot be streamed")
            returned = read_return(output, call.leaves[call.stream], name)
            parameters = tuple(f"{name}.{n}" for n, _ in block.named_parameters())
            self.blocks.append(Block(name, linears, parameters, returned, notes))
            if len(self.blocks) == self._count:
                raise _Done
            self._previous = returned.stream(output)
            self.of_blocks.add((*tree_iter(output), *_inside(beside)))
            return output

        block.forward = forward


def _inside(values: tuple[object, ...]) -> Iterator[object]:
    """What is in the mappings among these; a block may write into one that all blocks are given."""
    for value in values:
        if isinstance(value, Mapping):
            yield from tree_iter(list(value.values()))


def _stream(shape: tuple[int, ...], name: str) -> Stream:
    """What a stream of this shape is, when one row of tokens was traced."""
    for axis in range(len(shape) - 2):
        if shape[axis : axis + 2] == (1, _TOKENS):
            return Stream(prod(shape) // _TOKENS, axis)
    what = f"one vector for each of {_TOKENS} tokens"
    raise TraceError(f"{name} works on {list(shape)}, which does not hold {what}; it cannot be streamed")


def _around_zero(model: nn.Module, inside: set[int]) -> None:
    """Give everything outside the blocks real zeros (untouched pages), keeping tied parameters tied."""
    zeros: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in inside:
                real = torch.zeros(parameter.shape, dtype=parameter.dtype)
                setattr(module, key, zeros.setdefault(id(parameter), nn.Parameter(real, requires_grad=False)))
        for key, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                setattr(module, key, torch.zeros(buffer.shape, dtype=buffer.dtype))


def _on(call: Call, device: str) -> Call:
    """The same call with every tensor replaced by one on `device`: empty on meta, zeros elsewhere."""
    leaves = [torch.zeros(x.shape, dtype=x.dtype, device=device) if isinstance(x, Tensor) else x for x in call.leaves]
    return replace(call, leaves=tuple(leaves))


def _record(name: str, block: nn.Module, forward: Any, call: Call) -> tuple[tuple[Linear, ...], Any, tuple[str, ...]]:
    """The linears of one block, its output as zeros, and notes; recorded on meta tensors or else on zero weights."""
    notes: tuple[str, ...] = ()
    parameters = {f"{name}.{n}": p for n, p in block.named_parameters()}
    try:
        linears, output = _run_recorded(forward, parameters, _on(call, "meta"))
    except _CANNOT_RUN as reason:
        why = (str(reason).splitlines() or [type(reason).__name__])[0]
        notes = (f"traced on zero weights, because on meta tensors: {why}",)
        real = _zero_block(block)
        zeros = {f"{name}.{n}": p for n, p in real.named_parameters()}
        try:
            linears, output = _run_recorded(real.forward, zeros, _on(call, "cpu"))
        except _CANNOT_RUN as error:
            what = f"{type(error).__name__}: {error}"
            raise TraceError(f"{name} cannot be run by itself, with the stream of the one before: {what}") from error
    output = tree_map(lambda x: torch.zeros(x.shape, dtype=x.dtype) if isinstance(x, Tensor) else x, output)
    return _all_slices(linears, parameters), output, notes


def _run_recorded(forward: Any, parameters: Mapping[str, Tensor], call: Call) -> tuple[tuple[Linear, ...], Any]:
    stream = call.leaves[call.stream]
    args, kwargs = call.arguments(stream)
    record = Record(parameters, stream)
    with torch.no_grad(), record:
        output = forward(*args, **kwargs)
    return record.linears(), output


def _zero_block(block: nn.Module) -> nn.Module:
    """A copy with real zeros: `torch.zeros` maps pages that are never written, so that size does not matter."""
    intercepted = block.__dict__.pop("forward")
    real = copy.deepcopy(block)
    block.forward = intercepted
    for module in real.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, key, nn.Parameter(torch.zeros(parameter.shape, dtype=parameter.dtype), False))
        for key, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, key, torch.zeros(buffer.shape, dtype=buffer.dtype))
    return real


def _all_slices(linears: tuple[Linear, ...], parameters: Mapping[str, Tensor]) -> tuple[Linear, ...]:
    """The linears, with every slice of a fused parameter of which at least one slice was seen."""
    seen = {(linear.view.parameter, linear.view.index): linear for linear in linears}
    complete: list[Linear] = []
    done: set[str] = set()
    for linear in linears:
        view = linear.view
        if view.index is None:
            complete.append(linear)
        elif view.parameter not in done:
            done.add(view.parameter)
            for index in range(parameters[view.parameter].shape[0]):
                complete.append(seen.get((view.parameter, index)) or _moved(linear, linears, index))
    return tuple(complete)


def _moved(linear: Linear, linears: tuple[Linear, ...], index: int) -> Linear:
    """The same linear of another expert; numbers below zero are inputs that were not seen, one for each expert."""
    after = tuple(_same_slice(name, linear, linears, index) for name in linear.after)
    source = -1 - linear.source * 10_000 - index
    return replace(linear, view=replace(linear.view, index=index), after=after, source=source)


def _same_slice(name: str, linear: Linear, linears: tuple[Linear, ...], index: int) -> str:
    """The name of a dependence, moved to the expert `index` if it is a slice of the same expert."""
    for other in linears:
        if other.view.name == name and other.view.index is not None and other.view.index == linear.view.index:
            return replace(other.view, index=index).name
    return name


def _outside(model: nn.Module, inside: set[str]) -> tuple[Outside, ...]:
    """Every parameter outside the blocks, with its kind read off the module that owns it."""
    kinds: list[Outside] = []
    for path, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{key}" if path else key
            if name in inside:
                continue
            if isinstance(module, nn.Embedding):
                kind = "embedding"
            elif parameter.dim() == 2:
                kind = "head"
            else:
                kind = "bias" if key == "bias" and isinstance(module, nn.Linear) else "norm"
            kinds.append(Outside(name, kind))
    return tuple(kinds)
