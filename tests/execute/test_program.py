"""A recorded run as a program: the same numbers, from any values on; and what has no program."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bitwright.execute import Program, Recorder
from bitwright.graph import ignore


class Block(nn.Module):
    """Two linears around something that `act` does, added to the input."""

    def __init__(self, act: Callable[[Tensor], Tensor] = torch.tanh, twice: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.act, self.twice = nn.Linear(4, 6), nn.Linear(6, 4, bias=False), act, twice

    def forward(self, stream: Tensor, shift: Tensor) -> Tensor:
        hidden = self.act(self.one(stream) + self.one(stream).abs() if self.twice else self.one(stream) + shift)
        return stream + self.two(hidden)


def recorded(block: Block, stream: Tensor, shift: Tensor, outside: bool = True) -> tuple[Recorder, Program | None]:
    recorder = Recorder(block, stream, [shift] if outside else [])
    with torch.no_grad(), recorder, recorder.watch(dict(block.named_parameters()), ignore, ignore):
        output = block(stream, shift)
    return recorder, recorder.program(output)


@pytest.fixture
def stream() -> Tensor:
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


SHIFT = torch.linspace(-1, 1, 6)


def test_a_program_gives_the_output_for_another_stream_and_other_weights(stream: Tensor) -> None:
    block, other = Block(), Block()
    _, program = recorded(block, stream, SHIFT)
    assert program is not None
    places = program.needed([program.stream], [program.output])
    for module in (block, other):
        found = program.run(places, {program.stream: 2 * stream}, [program.output], module)
        with torch.no_grad():
            assert torch.equal(found[program.output], module(2 * stream, SHIFT))


def test_it_can_stop_after_any_instruction_and_go_on_from_what_it_keeps(stream: Tensor) -> None:
    block = Block()
    _, program = recorded(block, stream, SHIFT)
    assert program is not None
    with torch.no_grad():
        wanted = block(stream, SHIFT)
    for count in range(len(program.instructions)):
        done = set(range(count))
        kept = program.kept(done)
        values = program.run(sorted(done), {program.stream: stream}, kept, block)
        places = program.needed([*kept, program.stream], [program.output])
        assert not done & set(places)
        found = program.run(places, {**values, program.stream: stream}, [program.output], block)
        assert torch.equal(found[program.output], wanted)


def test_it_knows_what_weights_read_and_what_their_outputs_are_added_to(stream: Tensor) -> None:
    block = Block()
    _, program = recorded(block, stream, SHIFT)
    assert program is not None and program.added["two"] == program.stream
    read = program.reads["two"]
    values = program.run(program.needed([program.stream], [read]), {program.stream: stream}, [read], block)
    with torch.no_grad():
        assert torch.equal(values[read], torch.tanh(block.one(stream) + SHIFT).reshape(6, 6))


def branch(values: Tensor) -> Tensor:
    return values if float(values.sum()) > 0 else -values


def select(values: Tensor) -> Tensor:
    return values.clone().masked_scatter(values > 0, values[values > 0])


def in_place(values: Tensor) -> Tensor:
    return values.mul_(2)


@pytest.mark.parametrize("act", [branch, select, in_place], ids=["branch", "select", "in place"])
def test_what_depends_on_the_numbers_or_writes_into_them_has_no_program(
    act: Callable[[Tensor], Tensor], stream: Tensor
) -> None:
    assert recorded(Block(act), stream, SHIFT)[1] is None


def test_a_weight_that_is_used_twice_is_named(stream: Tensor) -> None:
    recorder, program = recorded(Block(twice=True), stream, SHIFT)
    assert program is None and recorder.repeated == {"one"}


def test_a_tensor_of_unknown_origin_has_no_program(stream: Tensor) -> None:
    assert recorded(Block(), stream, SHIFT, outside=False)[1] is None
