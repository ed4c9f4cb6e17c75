"""Records one run of a block: which linears it has, what they read, and what depends on what.

The run may be on meta tensors (no data, any size) or, where control flow depends on data (a router that sends tokens to
experts), on zero weights, whose untouched pages cost no memory. Dependence is followed operator by operator: each
value carries the linears that it depends on without another linear in between, and whether it is the stream (the
block's input, or a sum of the stream and something else).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bitwright.graph.graph import Linear, WeightView
from bitwright.graph.ops import ADDS, RANKS, SAME_VALUES, aten, products, storage_key

_TAKES_ROWS = frozenset({aten.index.Tensor, aten.index_select.default, aten.gather.default})
_PUTS_ROWS = frozenset(
    {aten.index_add.default, aten.index_add_.default, aten.index_put.default, aten.index_put_.default}
    | {aten.scatter.src, aten.scatter_add.default, aten.scatter_add_.default}
)


@dataclass(frozen=True, slots=True)
class _Value:
    """What is known of one tensor. `origin` is equal for tensors that hold the same numbers."""

    origin: int
    linears: frozenset[str] = frozenset()
    writer: WeightView | None = None
    stream: bool = False
    routed: bool = False


@dataclass(slots=True)
class _Found:
    source: int
    after: set[str] = field(default_factory=set)
    writes: bool = False
    routed: bool = False
    selects: bool = False


class Record(TorchDispatchMode):
    """Enter it, run the block once, then read `linears()`. `stream` is the tensor that flows from block to block."""

    def __init__(self, parameters: Mapping[str, Tensor], stream: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owners = {storage_key(p): (name, p) for name, p in parameters.items()}
        self._alive: list[Tensor] = [stream]  # ids and storages stay unique while the tensors live
        self._values: dict[int, _Value] = {id(stream): _Value(0, stream=True)}
        self._stores: dict[int, frozenset[str]] = {}
        self._found: dict[WeightView, _Found] = {}

    def linears(self) -> tuple[Linear, ...]:
        """The linears in the order in which they ran."""
        return tuple(
            Linear(view, one.source, tuple(sorted(one.after)), one.writes, one.routed, one.selects)
            for view, one in self._found.items()
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = _tensors((*args, *kwargs.values()))
        value = self._derive(func, args, inputs)
        out = func(*args, **kwargs)
        outputs = _tensors((out,))
        if func is aten._to_copy.default and storage_key(inputs[0]) in self._owners:
            name, parameter = self._owners[storage_key(inputs[0])]
            if parameter.shape == outputs[0].shape:  # a cast parameter is still that parameter
                self._owners[storage_key(outputs[0])] = (name, outputs[0])
        for tensor in outputs:
            self._alive.append(tensor)
            self._values[id(tensor)] = value
            key = storage_key(tensor)
            self._stores[key] = self._stores.get(key, frozenset()) | value.linears
        return out

    def _derive(self, func: Any, args: tuple[Any, ...], inputs: list[Tensor]) -> _Value:
        """What the operator's outputs are, given what its inputs are; notes the linears that it performs."""
        fresh = _Value(len(self._alive))
        found = products(func, args, self._owners)
        if found:
            for product in found:
                self._add(product.view, product.input)
            names = frozenset(product.view.name for product in found)
            routed = any(self._value(product.input).routed for product in found)
            return replace(fresh, linears=names, writer=found[0].view if len(found) == 1 else None, routed=routed)
        if func in SAME_VALUES and inputs:
            return self._value(inputs[0])
        linears = frozenset[str]().union(*(self._linears(t) for t in inputs))
        routed = any(self._value(t).routed for t in inputs)
        if func in _TAKES_ROWS:
            routed = routed or any(self._linears(t) for t in inputs[1:])
        elif func in _PUTS_ROWS:
            routed = False
        elif func in RANKS:
            for view, one in self._found.items():
                one.selects = one.selects or view.name in linears
        elif func in ADDS and len(inputs) >= 2:
            sides = self._meet(inputs[0], inputs[1]), self._meet(inputs[1], inputs[0])
            return replace(fresh, linears=linears, routed=routed, stream=any(sides))
        return replace(fresh, linears=linears, routed=routed)

    def _meet(self, writer: Tensor, other: Tensor) -> bool:
        """Note it if a linear's output is added to the stream; true if the sum is the stream again."""
        view, base = self._value(writer).writer, self._value(other)
        if base.stream and view is not None:
            self._found[view].writes = True
        return base.stream

    def _add(self, view: WeightView, source: Tensor) -> None:
        value = self._value(source)
        one = self._found.setdefault(view, _Found(value.origin))
        one.after |= self._linears(source) - {view.name}
        one.routed = one.routed or value.routed

    def _value(self, tensor: Tensor) -> _Value:
        known = self._values.get(id(tensor))
        if known is None:
            self._alive.append(tensor)
            known = self._values[id(tensor)] = _Value(len(self._alive))
        return known

    def _linears(self, tensor: Tensor) -> frozenset[str]:
        return self._value(tensor).linears | self._stores.get(storage_key(tensor), frozenset())


def _tensors(values: tuple[Any, ...]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(tuple(value))
    return found
