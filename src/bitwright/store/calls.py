"""Calls of a module that other code makes, as samples of a network.

Code that runs a model hands its modules tensors in its own way: by place and by name, in dictionaries, beside flags. A
`Call` holds the tensors by name and the rest as it was, so that a `CalledModule`, which takes the tensors alone, can be
exported and computes just what that call did.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


@final
@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """What a call hands over besides tensors. `leaves`: in the places of tensors their names, elsewhere constants."""

    leaves: tuple[object, ...]
    is_tensor: tuple[bool, ...]
    tree: pytree.TreeSpec
    signature: inspect.Signature

    def filled(self, tensors: Mapping[str, Tensor]) -> inspect.BoundArguments:
        """The arguments of the call with these tensors."""
        places = zip(self.leaves, self.is_tensor, strict=True)
        leaves = [tensors[str(leaf)] if is_tensor else leaf for leaf, is_tensor in places]
        return inspect.BoundArguments(self.signature, pytree.tree_unflatten(leaves, self.tree))

    def fits(self, other: Form) -> bool:
        """Whether two calls differ in tensors alone."""
        return self.is_tensor == other.is_tensor and self.tree == other.tree and self.leaves == other.leaves


@final
@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a module: its tensors by name, in the order of its parameters, and the rest."""

    tensors: dict[str, Tensor]
    form: Form

    @classmethod
    def of(cls, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """What `function` is called with, in copies. Names are those of parameters and of keys in dictionaries."""
        signature = inspect.signature(function)
        bound = signature.bind(*args, **kwargs)
        paths, tree = pytree.tree_flatten_with_path(dict(bound.arguments))
        short = [_name(path[-2:] if isinstance(path[-1], pytree.SequenceKey) else path[-1:]) for path, _ in paths]
        often = Counter(short)
        names = [one if often[one] == 1 else _name(path) for one, (path, _) in zip(short, paths, strict=True)]
        held = list(zip(names, (leaf for _, leaf in paths), strict=True))
        is_tensor = tuple(isinstance(leaf, Tensor) for _, leaf in held)
        leaves = tuple(name if isinstance(leaf, Tensor) else leaf for name, leaf in held)
        tensors = {name: leaf.detach().clone() for name, leaf in held if isinstance(leaf, Tensor)}
        return cls(tensors, Form(leaves, is_tensor, tree, signature))

    def renamed(self, names: Mapping[str, str]) -> Call:
        """The same with other names for its tensors."""
        held = zip(self.form.leaves, self.form.is_tensor, strict=True)
        leaves = tuple(names[str(leaf)] if is_tensor else leaf for leaf, is_tensor in held)
        tensors = {names[name]: tensor for name, tensor in self.tensors.items()}
        return Call(tensors, replace(self.form, leaves=leaves))

    def spread(self) -> Call:
        """The same with each scalar given once for every sample."""
        held = {name: tensor if tensor.dim() else tensor.repeat(self.rows) for name, tensor in self.tensors.items()}
        return Call(held, self.form)

    @property
    def rows(self) -> int:
        """How many samples it holds: the length of the first axis of the first tensor that has one."""
        return next((len(tensor) for tensor in self.tensors.values() if tensor.dim()), 1)

    def is_shared(self, name: str) -> bool:
        """Whether all samples of the call read one and the same tensor of this name."""
        return not self.tensors[name].dim() or len(self.tensors[name]) != self.rows

    def row(self, place: int) -> dict[str, Tensor]:
        """One sample of the call."""
        return {n: held if self.is_shared(n) else held[place : place + 1] for n, held in self.tensors.items()}

    def sharing(self, before: Call) -> Call:
        """The same, with the memory of the call before it for tensors that are equal."""
        held = {
            name: before.tensors[name] if name in before.tensors and torch.equal(before.tensors[name], now) else now
            for name, now in self.tensors.items()
        }
        return Call(held, self.form)


@final
class CalledModule(nn.Module):
    """A module that is called as a recorded call was, with other tensors, given by place in the order of its names."""

    def __init__(self, module: nn.Module, function: Callable[..., Any], call: Call, output: str) -> None:
        """`function`: of `module`; `output`: the name of what it returns, unless that has names."""
        super().__init__()
        self.module, self.function, self.call, self.output = module, function, call, output

    def forward(self, *given: Tensor) -> dict[str, Any]:
        """What the function returns, by name."""
        bound = self.call.form.filled(dict(zip(self.call.tensors, given, strict=True)))
        found = self.function(*bound.args, **bound.kwargs)
        if isinstance(found, Mapping):
            taken = self.call.tensors
            return {f"out_{n}" if n in taken else str(n): value for n, value in found.items() if value is not None}
        return {self.output: found[0] if isinstance(found, tuple | list) and len(found) == 1 else found}


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(str(key.idx if isinstance(key, pytree.SequenceKey) else key.key) for key in path)
