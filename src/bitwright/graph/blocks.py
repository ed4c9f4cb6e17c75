"""Finds the blocks of a model and what flows between them, without knowing the model.

A block is an element of the outermost repeated list of modules, the one that holds most of the parameters. What flows
is found by running the model once with every block's `forward` replaced: the stream is the tensor that a block returns
and that the next block is given. All that a block gets besides the stream (masks, rotary tables, positions) are side
inputs, which do not depend on the stream; a mapping among them is where blocks may leave things for later ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten


class TraceError(ValueError):
    """The model could not be traced; the message names the operator or module, and what to do."""


def find_blocks(model: nn.Module) -> list[list[tuple[str, nn.Module]]]:
    """Lists of what may be the blocks, with their module paths, in order; the list with most parameters comes first.

    A model that also reads pictures has several. Raises TraceError where nothing repeats.
    """
    found: list[tuple[int, list[tuple[str, nn.Module]]]] = []
    for path, module in model.named_modules():
        within = (p for _, children in found for p, _ in children)
        if not isinstance(module, (nn.ModuleList, nn.Sequential)) or any(path.startswith(p + ".") for p in within):
            continue
        children = [(f"{path}.{name}", child) for name, child in module.named_children()]
        size = sum(p.numel() for p in module.parameters())
        if size and _repeats(children, isinstance(module, nn.ModuleList)):
            found.append((size, children))
    if not found:
        raise TraceError(
            "no repeated blocks were found: the model has no list of modules with parameters. A causal language model "
            "with its layers in one nn.ModuleList is what can be traced here"
        )
    return [children for _, children in sorted(found, key=lambda one: -one[0])]


def _repeats(children: list[tuple[str, nn.Module]], may_differ: bool) -> bool:
    """Whether the elements are of one class, or (`may_differ`) of a few that come again: attention and state spaces.

    Their shapes may differ in any case, as in models with a dense start.
    """
    kinds = {type(child) for _, child in children}
    repeats = len(kinds) == 1 or (may_differ and len(kinds) < len(children))
    return repeats and not any(issubclass(kind, nn.Linear) for kind in kinds)


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one call of a block, with the places of the stream and of the mapping it may leave things in."""

    leaves: tuple[Any, ...]
    structure: Any
    stream: int
    shelf: int | None = None

    def arguments(self, stream: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of the same call with another stream."""
        leaves = list(self.leaves)
        leaves[self.stream] = stream
        args, kwargs = tree_unflatten(leaves, self.structure)
        return args, kwargs

    def without_stream(self) -> Call:
        """The same call with the stream forgotten, so that only side inputs stay in memory."""
        return self._with(self.stream, None)

    def on_shelf(self) -> MutableMapping[Any, Any]:
        """What lies in the mapping; an empty one where the block is given none."""
        return {} if self.shelf is None else self.leaves[self.shelf]

    def with_shelf(self, values: Mapping[Any, Any]) -> Call:
        """The same call with a mapping of its own, in which these values lie, too."""
        if self.shelf is None:
            return self
        mapping = copy.copy(self.on_shelf())
        mapping.update(values)
        return self._with(self.shelf, mapping)

    def _with(self, place: int, leaf: Any) -> Call:
        return replace(self, leaves=(*self.leaves[:place], leaf, *self.leaves[place + 1 :]))


def capture_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """The call, with the stream taken to be the first floating-point tensor of at least three dimensions."""
    leaves, structure = tree_flatten((args, kwargs))
    shelf = next((place for place, leaf in enumerate(leaves) if isinstance(leaf, MutableMapping)), None)
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() >= 3:
            return Call(tuple(leaves), structure, place, shelf)
    raise TraceError("a block was called without a floating-point tensor [batch, tokens, channels] to work on")


@dataclass(frozen=True, slots=True)
class Returned:
    """What a block returns, with the place of the stream among the leaves."""

    structure: Any
    leaves: tuple[Any, ...]
    place: int

    def with_stream(self, stream: Tensor) -> Any:
        """The same structure with another stream."""
        leaves = list(self.leaves)
        leaves[self.place] = stream
        return tree_unflatten(leaves, self.structure)

    def stream(self, output: Any) -> Tensor:
        """The stream inside an output of this structure."""
        leaf = tree_flatten(output)[0][self.place]
        assert isinstance(leaf, Tensor)
        return leaf


def read_return(output: Any, stream: Tensor, name: str) -> Returned:
    """Where in a block's output the stream is: the first floating-point tensor of the shape of its input."""
    leaves, structure = tree_flatten(output)
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and leaf.shape == stream.shape and leaf.is_floating_point():
            return Returned(structure, tuple(None if isinstance(x, Tensor) else x for x in leaves), place)
    raise TraceError(f"{name}: none of its outputs has the shape of its input, {tuple(stream.shape)}")
