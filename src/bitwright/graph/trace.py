"""From a skeleton (a module without data) to a Graph.

The model runs once on meta tensors with every block's forward intercepted. Each block is recorded on its own; a block
whose control flow depends on data is recorded again on zero weights, which are lazily allocated and never touched, with
few tokens. Experts that no token reached are the other slices of a parameter of which one slice was seen.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map

from bitwright.graph.blocks import Call, TraceError, capture_call, find_blocks, read_return
from bitwright.graph.followers import Followers
from bitwright.graph.graph import Block, Graph, Linear, Outside
from bitwright.graph.record import Record
from bitwright.graph.shelf import Entry, Shelf
from bitwright.graph.stream import Stream

_TOKENS = 13  # no size of a model, so that the axis of the tokens is known by it
# what operators raise where there is no data (numpy() a TypeError), and a block's own code where something is missing
_CANNOT_RUN = (RuntimeError, TypeError, LookupError, AttributeError)


def trace(skeleton: nn.Module) -> Graph:
    """The graph of a causal language model; `skeleton` has its parameters on meta and is left as it was.

    Raises TraceError naming the module and the operator that could not be followed.
    """
    missed: list[_NotReached] = []
    lists = [[name for name, _ in found] for found in find_blocks(skeleton)]
    for names in lists:
        try:
            return _traced(copy.deepcopy(skeleton), names, {name for others in lists for name in others})
        except _NotReached as error:
            missed.append(error)
    raise missed[0]


def _traced(model: nn.Module, names: list[str], repeated: Collection[str]) -> Graph:
    """The graph with these modules as blocks; those that text passes by, if not all, stay outside.

    `repeated`: these, and what repeats elsewhere.
    """
    found = [(name, model.get_submodule(name)) for name in names]
    _around_zero(model, {id(p) for _, block in found for p in block.parameters()})
    tokens = torch.zeros((1, _TOKENS), dtype=torch.int64)
    tracer = _Tracer(len(found), tokens)
    for name, block in found:
        tracer.intercept(name, block.to("meta"))
    try:
        with torch.no_grad(), tracer.of_tokens, tracer.of_blocks, tracer.of_shelf:
            model(input_ids=tokens, use_cache=False)
    except _Done:
        pass
    except _CANNOT_RUN as error:
        kind = _NotReached if tracer.stream is None else TraceError
        raise kind(f"the parts around the blocks cannot be traced: {error}") from error
    ran = [block.name for block in tracer.blocks]
    if tracer.stream is None:
        raise _NotReached(f"{names[0]} and its siblings do not run where the model reads text; they cannot be streamed")
    if ran != [name for name in names if name in set(ran)]:
        raise TraceError(f"{names[0]} and its siblings do not each run once, in order; they cannot be streamed")
    outside = _outside(model, {p for b in tracer.blocks for p in b.parameters}, repeated)
    stream = replace(tracer.stream, shelf=Shelf(tuple(tracer.left.values()))) if tracer.of_shelf.read else tracer.stream
    return Graph(tuple(tracer.blocks), outside, stream, tracer.tells_tokens)


class _NotReached(TraceError):
    """Text reaches none of what were taken for the blocks: a picture or a sound may."""


class _Done(Exception):
    """The last block has been recorded; what follows is of no interest."""


class _Tracer:
    """Records every block when the model calls it, and hands zeros on."""

    def __init__(self, count: int, tokens: Tensor) -> None:
        self.blocks: list[Block] = []
        # to be entered while the model runs
        self.of_tokens, self.of_blocks, self.of_shelf = Followers([tokens]), Followers(), Followers()
        self.tells_tokens = False
        self.left: dict[Any, Entry] = {}
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
            self.tells_tokens |= self.of_tokens.include((*beside, *tree_iter(dict(call.on_shelf()))))
            self.stream = _stream(tuple(call.leaves[call.stream].shape), name)
            read, finds = self.of_blocks.read, len(self.left)
            linears, output, notes, left = _record(name, block, original, call, (self.left.keys(), self.of_shelf))
            call.on_shelf().update(left)
            self._keep(name, left)
            if self.of_blocks.include(beside) or self.of_blocks.read > read:
                raise TraceError(f"{name} reads more of the blocks before it than their stream; cannot be streamed")
            returned = read_return(output, call.leaves[call.stream], name)
            parameters = tuple(f"{name}.{n}" for n, _ in block.named_parameters())
            self.blocks.append(Block(name, linears, parameters, returned, notes, finds))
            if len(self.blocks) == self._count:
                raise _Done
            self._previous = returned.stream(output)
            self.of_blocks.add(tree_iter(output))
            return output

        block.forward = forward

    def _keep(self, name: str, left: Mapping[Any, Any]) -> None:
        """Note what a block left, as far as it can be handed on; no other block may read the rest."""
        for key, value in left.items():
            entry = Entry.read(key, value, _TOKENS)
            if entry is None and not any(isinstance(leaf, Tensor) for leaf in tree_iter(value)):
                raise TraceError(f"{name} leaves {key!r} for later blocks, which is no tensor; cannot be streamed")
            if self.left.get(key, entry) != entry:
                raise TraceError(f"{name} leaves {key!r} in other shapes than a block before it; cannot be streamed")
            if entry is None:
                self.of_blocks.add(tree_iter(value))
            else:
                self.left[key] = entry


def _stream(shape: tuple[int, ...], name: str) -> Stream:
    """What a stream of this shape is, when one row of tokens was traced."""
    for axis in range(len(shape) - 2):
        if shape[axis : axis + 2] == (1, _TOKENS):
            return Stream((*shape[:axis], *shape[axis + 2 :]), axis)
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


def _on(call: Call, device: str, keys: Collection[Any]) -> Call:
    """The same call with every tensor replaced by one on `device`: empty on meta, zeros elsewhere.

    `keys`: what is on the shelf so far.
    """
    found = {key: value for key, value in call.on_shelf().items() if key in keys}
    return replace(call, leaves=tuple(_zeros(call.leaves, device))).with_shelf(_zeros(found, device))


def _zeros(values: Any, device: str = "cpu") -> Any:
    def zeros(x: object) -> object:
        return torch.zeros(x.shape, dtype=x.dtype, device=device) if isinstance(x, Tensor) else x

    return tree_map(zeros, values)


def _record(
    name: str, block: nn.Module, forward: Any, call: Call, shelf: tuple[Collection[Any], Followers]
) -> tuple[tuple[Linear, ...], Any, tuple[str, ...], dict[Any, Any]]:
    """The linears of one block, its output as zeros, notes, and what it left on the shelf, as zeros.

    It is recorded on meta tensors or else on zero weights. `shelf`: the keys of what is there, which is followed.
    """
    notes: tuple[str, ...] = ()
    parameters = {f"{name}.{n}": p for n, p in block.named_parameters()}
    try:
        linears, output, left = _run_recorded(forward, parameters, _on(call, "meta", shelf[0]), shelf)
    except _CANNOT_RUN as reason:
        why = (str(reason).splitlines() or [type(reason).__name__])[0]
        notes = (f"traced on zero weights, because on meta tensors: {why}",)
        real = _zero_block(block)
        zeros = {f"{name}.{n}": p for n, p in real.named_parameters()}
        try:
            linears, output, left = _run_recorded(real.forward, zeros, _on(call, "cpu", shelf[0]), shelf)
        except _CANNOT_RUN as error:
            what = f"{type(error).__name__}: {error}"
            raise TraceError(f"{name} cannot be run by itself, with the stream of the one before: {what}") from error
    return _all_slices(linears, parameters), _zeros(output), notes, _zeros(left)


def _run_recorded(
    forward: Any, parameters: Mapping[str, Tensor], call: Call, shelf: tuple[Collection[Any], Followers]
) -> tuple[tuple[Linear, ...], Any, dict[Any, Any]]:
    """The linears, the output, and what is new on the shelf."""
    keys, of_shelf = shelf
    stream, found = call.leaves[call.stream], dict(call.on_shelf())
    of_shelf.add(tree_iter([found[key] for key in keys]))
    args, kwargs = call.arguments(stream)
    record = Record(parameters, stream)
    with torch.no_grad(), record:
        output = forward(*args, **kwargs)
    left = {key: value for key, value in call.on_shelf().items() if key not in found or value is not found[key]}
    return record.linears(), output, left


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


def _outside(model: nn.Module, inside: set[str], repeated: Collection[str]) -> tuple[Outside, ...]:
    """Every parameter outside the blocks, with its kind read off the module that owns it, and where that is."""
    kinds: list[Outside] = []
    for path, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{key}" if path else key
            if name in inside:
                continue
            if isinstance(module, nn.Embedding):
                kind = "embedding"
            elif parameter.dim() == 2:
                kind = "other" if any(name.startswith(f"{block}.") for block in repeated) else "head"
            else:
                kind = "bias" if key == "bias" and isinstance(module, nn.Linear) else "norm"
            kinds.append(Outside(name, kind))
    return tuple(kinds)
