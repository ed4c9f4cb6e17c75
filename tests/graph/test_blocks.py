"""Where the blocks are, and where the stream is among what they take and return."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.graph import TraceError, capture_call, find_blocks, read_return


def stack(count: int, width: int = 8) -> list[nn.Module]:
    return [nn.TransformerEncoderLayer(width, 2, width) for _ in range(count)]


def test_the_list_with_most_parameters_is_the_blocks() -> None:
    model = nn.Module()
    model.small, model.large = nn.ModuleList(stack(3)), nn.ModuleList(stack(2, 32))
    assert [name for name, _ in find_blocks(model)[0]] == ["large.0", "large.1"]


def test_lists_inside_blocks_are_not_blocks() -> None:
    model, outer = nn.Module(), []
    for _ in range(2):
        block = nn.Module()
        block.experts = nn.ModuleList(stack(4, 16))
        outer.append(block)
    model.layers = nn.Sequential(*outer)
    assert [name for name, _ in find_blocks(model)[0]] == ["layers.0", "layers.1"]


def test_lists_of_unlike_modules_and_of_bare_linears_do_not_count() -> None:
    model = nn.Module()
    model.heads = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))
    model.mixed = nn.Sequential(nn.Embedding(100, 100), nn.LayerNorm(100))
    model.layers = nn.ModuleList(stack(2))
    assert [name for name, _ in find_blocks(model)[0]] == ["layers.0", "layers.1"]


def test_blocks_of_two_kinds_may_take_turns() -> None:
    """As in hybrids of attention and state spaces; but a list in which nothing comes again is no list of blocks."""
    model = nn.Module()
    model.turns = nn.ModuleList([*stack(1), nn.GRU(8, 8), *stack(1), nn.GRU(8, 8)])
    model.pair = nn.ModuleList([*stack(1, 64), nn.GRU(64, 64)])
    model.chain = nn.Sequential(nn.GRU(64, 64), nn.LayerNorm(64), nn.GRU(64, 64))
    assert [name for name, _ in find_blocks(model)[0]] == [f"turns.{i}" for i in range(4)]


def test_a_model_without_a_list_has_no_blocks() -> None:
    with pytest.raises(TraceError, match=r"no repeated blocks were found.*nn\.ModuleList"):
        find_blocks(nn.Linear(4, 4))
    with pytest.raises(TraceError, match="no repeated blocks"):
        find_blocks(nn.ModuleList())


def test_the_stream_is_the_first_float_tensor_of_three_dimensions() -> None:
    stream, mask = torch.ones(1, 2, 3), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    call = capture_call((torch.ones(3),), {"mask": mask, "hidden": stream, "tables": (torch.ones(1, 2, 4),)})
    assert call.leaves[call.stream] is stream
    args, kwargs = call.arguments(stream * 2)
    assert len(args) == 1 and torch.equal(kwargs["hidden"], stream * 2) and kwargs["mask"] is mask
    assert call.without_stream().leaves[call.stream] is None
    assert torch.equal(call.without_stream().arguments(stream)[1]["hidden"], stream)


def test_a_call_without_a_stream_is_refused() -> None:
    with pytest.raises(TraceError, match="without a floating-point tensor"):
        capture_call((torch.ones(2, 3), torch.ones(1, 2, 3, dtype=torch.int64)), {})


def test_the_stream_of_an_output_has_the_shape_of_the_input() -> None:
    stream, weights = torch.randn(1, 2, 3), torch.randn(1, 4, 2, 2)
    found = read_return((weights, stream, None), torch.zeros(1, 2, 3), "block")
    assert found.stream((weights, stream, None)) is stream
    rebuilt = found.with_stream(stream * 2)
    assert rebuilt[0] is None and torch.equal(rebuilt[1], stream * 2) and rebuilt[2] is None
    assert all(not isinstance(leaf, torch.Tensor) for leaf in found.leaves)


def test_an_output_without_the_stream_is_refused() -> None:
    with pytest.raises(TraceError, match=r"blocks\.3: none of its outputs has the shape of its input, \(1, 2, 3\)"):
        read_return(torch.zeros(1, 2, 4), torch.zeros(1, 2, 3), "blocks.3")
