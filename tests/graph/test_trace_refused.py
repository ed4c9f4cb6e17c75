"""Models that cannot be traced are refused by name; blocks that cannot run on meta tensors are traced on zeros."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from bitwright.graph import TraceError, trace
from conformance import models


class Plain(nn.Module):
    """A block that works; the ones below do not."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w = nn.Linear(width, width)

    def forward(self, side: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return side, x + self.w(self.change(x))

    def change(self, x: Tensor) -> Tensor:
        return x


class NeedsNumbers(Plain):
    def change(self, x: Tensor) -> Tensor:
        if x.abs().sum().item() == 0:
            raise RuntimeError("frobnicate wants numbers")
        return x


class ThroughNumpy(Plain):
    def change(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() + 1)


class OtherShape(Plain):
    def forward(self, side: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return side, self.w(x)[:, :-1]


class ScaledBetween(models.Odd):
    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        x = self.enter(input_ids)
        for zorp in self.zorps:
            x = zorp(self.side, x * 2)[1]
        return SimpleNamespace(logits=self.leave(x))


class Backwards(models.Odd):
    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        x = self.enter(input_ids)
        for zorp in reversed(self.zorps):
            x = zorp(self.side, x)[1]
        return SimpleNamespace(logits=self.leave(x))


class Remembering(models.Odd):
    """Gives every block what came before the one before it, too."""

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        x = before = self.enter(input_ids)
        for zorp in self.zorps:
            before, x = x, zorp(before.mean(0), x)[1]
        return SimpleNamespace(logits=self.leave(x))


class Noting(Plain):
    def forward(self, side: dict[int, Tensor], x: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        side[len(side)] = self.w(x)
        return None, x + side[len(side) - 1]


class Averaging(Noting):
    """Leaves something that is not there for every token."""

    def forward(self, side: dict[str, Tensor], x: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        x = x + self.w(x) + side.get("mean", 0)
        side["mean"] = x.mean(1)
        return None, x


class Growing(Noting):
    """Leaves more and more under one name."""

    def forward(self, side: dict[str, Tensor], x: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        side["all"] = torch.cat([side["all"], x], 2) if "all" in side else x
        return None, x + self.w(side["all"][:, :, -x.shape[2] :])


class Summing(Noting):
    """Leaves something for every token, and then something else in its place."""

    def forward(self, side: dict[str, Tensor], x: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        before = side.get("x", x)
        side["x"] = x.mean(1) if "x" in side else x
        return None, x + self.w(before)


class Counting(Noting):
    def forward(self, side: dict[str, int], x: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        side["count"] = side.get("count", 0) + 1
        return None, x + self.w(x) * side["count"]


class Handing(models.Odd):
    """Gives every block the same notes."""

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        x, notes = self.enter(input_ids), UserDict()
        for zorp in self.zorps:
            x = zorp(notes, x)[1]
        return SimpleNamespace(logits=self.leave(x))


class Turned(models.Odd):
    """Has the tokens of a row along the first axis."""

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        x = self.enter(input_ids).mT.unsqueeze(0)
        for zorp in self.zorps:
            x = zorp(self.side, x)[1]
        return SimpleNamespace(logits=self.leave(x[0].mT))


class OtherArguments(models.Odd):
    def forward(self, tokens: Tensor) -> SimpleNamespace:  # type: ignore[override]
        raise AssertionError("never called")


class Single(nn.Module):
    """Nothing repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Embedding(40, 16), nn.Linear(16, 40)

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        return SimpleNamespace(logits=self.leave(self.enter(input_ids)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Single, "no repeated blocks were found"),
        (lambda: models.Odd(block=NeedsNumbers), "zorps.0 cannot be run by itself.*frobnicate wants numbers"),
        (lambda: models.Odd(block=OtherShape), "zorps.0: none of its outputs has the shape of its input"),
        (lambda: ScaledBetween(block=Plain), "zorps.1: its input is not the output of the block before it"),
        (lambda: Backwards(block=Plain), "zorps.0 and its siblings do not each run once, in order"),
        (lambda: Remembering(block=Plain), "zorps.2 reads more of the blocks before it than their stream"),
        (lambda: Handing(block=Averaging), "zorps.1 reads more of the blocks before it than their stream"),
        (lambda: Handing(block=Growing), "zorps.1 leaves 'all' in other shapes than a block before it"),
        (lambda: Handing(block=Summing), "zorps.1 leaves 'x' in other shapes than a block before it"),
        (lambda: Handing(block=Counting), "zorps.0 leaves 'count' for later blocks, which is no tensor"),
        (
            lambda: Turned(block=Plain),
            r"zorps.0 works on \[1, 1, 16, 13\], which does not hold one vector for each of 13",
        ),
        (lambda: OtherArguments(block=Plain), "the parts around the blocks cannot be traced: .*input_ids"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_that_cannot_be_traced_is_refused_by_name(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(make().to("meta"))


class Seeing(models.Odd):
    """Has more layers for pictures than for text, and one between those for text that only pictures need."""

    def __init__(self) -> None:
        super().__init__(block=Plain)
        self.tower = nn.ModuleList([Plain(256), Plain(256)])

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        x = self.enter(input_ids)
        for index, zorp in enumerate(self.zorps):
            x = x if index == 1 else zorp(self.side, x)[1]
        return SimpleNamespace(logits=self.leave(x))


def test_what_text_does_not_reach_is_no_block_and_stays_outside() -> None:
    model = Seeing()
    graph = trace(model.to("meta"))
    assert [block.name for block in graph.blocks] == [f"zorps.{i}" for i in range(len(model.zorps)) if i != 1]
    matrices = {one.parameter: one.kind for one in graph.outside if one.parameter.endswith(".w.weight")}
    assert matrices == dict.fromkeys(("zorps.1.w.weight", "tower.0.w.weight", "tower.1.w.weight"), "other")
    assert {one.kind for one in graph.outside if one.parameter.startswith("leave")} == {"head"}


def test_layers_that_text_never_reaches_are_refused_by_name() -> None:
    class Blind(Seeing):
        def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
            return SimpleNamespace(logits=self.leave(self.enter(input_ids)))

    with pytest.raises(TraceError, match=r"tower.0 and its siblings do not run where the model reads text"):
        trace(Blind().to("meta"))


def test_blocks_may_leave_notes_that_no_other_reads() -> None:
    blocks = trace(Handing(block=Noting).to("meta")).blocks
    assert [[linear.view.name for linear in block.linears] for block in blocks] == [[f"zorps.{i}.w"] for i in range(3)]


def test_a_block_that_leaves_torch_is_traced_on_zeros() -> None:
    block = trace(models.Odd(block=ThroughNumpy).to("meta")).blocks[0]
    assert [linear.view.name for linear in block.linears] == ["zorps.0.w"]
    assert "numpy" in block.notes[0]


def test_an_error_without_words_is_named_by_its_kind() -> None:
    class Silent(Plain):
        def change(self, x: Tensor) -> Tensor:
            if x.is_meta:
                raise NotImplementedError
            return x

    assert trace(models.Odd(block=Silent).to("meta")).blocks[0].notes[0].endswith("NotImplementedError")
