"""A block as a straight line of operators: it can stop before any of them and go on later.

Most blocks run the same operators on every batch of one shape, whatever the numbers. One recorded run then is a
program: instructions on numbered values. Between two stages of a block only a few values are needed again (the stream
and what the next linears read), so that a run can be put aside on disk and taken up when earlier weights have been
rounded. A block whose operators depend on the numbers (tokens sent to experts), or that writes into its tensors, has no
program and is run anew instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from bitwright.execute.mixed import short_factors
from bitwright.graph import Watch, WeightView


@dataclass(frozen=True, slots=True)
class Ref:
    """A value by its number."""

    number: int


@dataclass(frozen=True, slots=True)
class Instruction:
    """One operator: its arguments with references in the place of tensors, and the numbers of its outputs."""

    function: Callable[..., Any]
    leaves: tuple[Any, ...]
    structure: TreeSpec
    outputs: tuple[int, ...]

    @property
    def inputs(self) -> list[int]:
        """The values that it reads."""
        return [leaf.number for leaf in self.leaves if isinstance(leaf, Ref)]

    def run(self, values: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
        """Its outputs."""
        leaves = [values[leaf.number] if isinstance(leaf, Ref) else leaf for leaf in self.leaves]
        args, kwargs = tree_unflatten(leaves, self.structure)
        found = tree_flatten(self.function(*args, **kwargs))[0]
        return tuple(one for one in found if isinstance(one, Tensor))


@dataclass(frozen=True, slots=True)
class Kind:
    """Shape and type of a value."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Size of the numbers."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@final
@dataclass(frozen=True, slots=True)
class Program:
    """The instructions of a block for one batch shape.

    `given`: what never changes, parameters by name or tensors. `reads`: the value that each weight is multiplied with,
    by weight name; `added`: what the output of a writer is added to.
    """

    instructions: tuple[Instruction, ...]
    kinds: Mapping[int, Kind]
    given: Mapping[int, Tensor | str]
    stream: int
    output: int
    reads: Mapping[str, int]
    added: Mapping[str, int]

    def needed(self, known: Collection[int], wanted: Collection[int]) -> list[int]:
        """The instructions that make the wanted values from the known ones, in running order."""
        maker = {number: i for i, one in enumerate(self.instructions) for number in one.outputs}
        found: set[int] = set()
        open_values = [number for number in wanted if number not in known]
        while open_values:
            place = maker.get(open_values.pop())
            if place is not None and place not in found:
                found.add(place)
                open_values += [n for n in self.instructions[place].inputs if n not in known]
        return sorted(found)

    def kept(self, done: Collection[int]) -> list[int]:
        """The values to keep once these instructions have run: all that the others still read, but the stream."""
        made = {number for place in done for number in self.instructions[place].outputs}
        later = [one for place, one in enumerate(self.instructions) if place not in done]
        return sorted(made & ({number for one in later for number in one.inputs} | {self.output}))

    def inputs(self, places: list[int], wanted: Collection[int]) -> set[int]:
        """The values that these instructions do not make themselves, and those wanted that are there already."""
        made = {number for place in places for number in self.instructions[place].outputs}
        read = {number for place in places for number in self.instructions[place].inputs}
        return (read | set(wanted)) - made - self.given.keys()

    def run(
        self, places: list[int], values: dict[int, Tensor], wanted: Collection[int], module: nn.Module
    ) -> dict[int, Tensor]:
        """The wanted values, made by these instructions from `values`, which is used up; weights are the module's."""
        last = {number: place for place in places for number in self.instructions[place].inputs}
        for number, one in self.given.items():
            if number in last or number in wanted:
                values[number] = module.get_parameter(one) if isinstance(one, str) else one
        with torch.no_grad(), short_factors():
            for place in places:
                instruction = self.instructions[place]
                values.update(zip(instruction.outputs, instruction.run(values), strict=True))
                touched = {*instruction.inputs, *instruction.outputs}
                for number in {one for one in touched if last.get(one, -1) <= place} - set(wanted):
                    del values[number]
        return {number: values[number] for number in wanted}


@dataclass(slots=True)
class _Weights:
    """What was seen of the weights while recording."""

    reads: dict[str, int] = field(default_factory=dict)
    added: dict[str, int | None] = field(default_factory=dict)
    is_whole: bool = True


@final
class Recorder(TorchDispatchMode):
    """Enter it, then the watch it hands out, run the block once, leave both; then ask for the program.

    Values are known by weak reference. `outside` are the tensors that the block is called with besides the stream: what
    is neither theirs, nor the block's own, nor made by an operator that was seen, is a reason to give up.
    """

    def __init__(self, module: nn.Module, stream: Tensor, outside: Iterable[object] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._outside = {id(one) for one in (*outside, *module.parameters(), *module.buffers())}
        self._numbers: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._kinds: dict[int, Kind] = {}
        self._given: dict[int, Tensor | str] = {}
        self._instructions: dict[Any, Instruction] = {}
        self._weights = _Weights()
        self._is_straight = True
        self.repeated: set[str] = set()
        self._stream = self._enter(stream)

    def watch(
        self,
        parameters: Mapping[str, Tensor],
        on_product: Callable[[WeightView, Tensor], None],
        on_add: Callable[[WeightView, Tensor], None],
    ) -> Watch:
        """A watch that also tells the recorder which values the weights read."""

        def product(view: WeightView, read: Tensor) -> None:
            if view.name in self._weights.reads:
                self.repeated.add(view.name)
            number = self._numbers.get(read)
            self._weights.is_whole = self._weights.is_whole and number is not None
            self._weights.reads[view.name] = number
            on_product(view, read)

        def add(view: WeightView, other: Tensor) -> None:
            self._weights.added.setdefault(view.name, self._numbers.get(other))  # the first time counts
            on_add(view, other)

        return Watch(parameters, product, add)

    def program(self, output: Tensor) -> Program | None:
        """The program without what nothing reads; None where the block is no straight line, or uses a weight twice."""
        number: int | None = self._numbers.get(output)
        if not self._is_straight or not self._weights.is_whole or self.repeated or number is None:
            return None
        instructions, reads = tuple(self._instructions.values()), self._weights.reads
        added = {name: other for name, other in self._weights.added.items() if other is not None}
        whole = Program(instructions, self._kinds, self._given, self._stream, number, reads, added)
        live = whole.needed((), (number, *reads.values(), *added.values()))
        return replace(whole, instructions=tuple(whole.instructions[place] for place in live))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self._is_straight:
            return func(*args, **(kwargs or {}))
        leaves, structure = tree_flatten((args, kwargs or {}))
        leaves = [Ref(self._number(leaf)) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        out = func(*args, **(kwargs or {}))
        outputs = tree_flatten(out)[0]
        if not _is_straight(func) or any(not isinstance(one, Tensor) for one in outputs if one is not None):
            self._give_up()
            return out
        self._note(func, tuple(leaves), structure, [one for one in outputs if one is not None])
        return out

    def _note(self, func: Any, leaves: tuple[Any, ...], structure: TreeSpec, outputs: list[Tensor]) -> None:
        """Add an instruction; what was computed already from the same values is not computed again."""
        key = (func, tuple((type(leaf), leaf) for leaf in leaves), structure)
        before = self._instructions.get(key)
        if before is not None:
            for number, tensor in zip(before.outputs, outputs, strict=True):
                self._numbers[tensor] = number
            return
        numbers = tuple(self._enter(tensor) for tensor in outputs)
        self._instructions[key] = Instruction(func, leaves, structure, numbers)

    def _enter(self, tensor: Tensor) -> int:
        number = len(self._kinds)
        self._numbers[tensor] = number
        self._kinds[number] = Kind(tuple(tensor.shape), tensor.dtype)
        return number

    def _number(self, tensor: Tensor) -> int:
        """The value's number; what no instruction made is given: a parameter, or a tensor from outside."""
        number: int | None = self._numbers.get(tensor)
        if number is None:
            self._is_straight = self._is_straight and (id(tensor) in self._outside or tensor.numel() == 1)
            number = self._enter(tensor)
            self._given[number] = self._names.get(id(tensor), tensor)
        return number

    def _give_up(self) -> None:
        """Hold nothing more."""
        self._is_straight = False
        self._instructions, self._given = {}, {}


def _is_straight(func: Any) -> bool:
    """Whether an operator writes into nothing, looks at no strides, and what follows it cannot depend on numbers."""
    depends = torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags
    return not func._schema.is_mutable and not depends and func is not torch.ops.aten.as_strided.default
