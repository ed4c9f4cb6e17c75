"""Calls taken apart into tensors with names and the rest, and put together again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitwright.store.calls import Call, CalledModule


def reads(sample: Tensor, step: Tensor | float, added: dict[str, Any] | None = None, **more: Any) -> None: ...


def test_tensors_are_called_after_parameters_and_keys() -> None:
    added = {"embeds": torch.ones(2, 3), "sizes": [torch.ones(2), torch.zeros(2)]}
    call = Call.of(reads, (torch.ones(2, 4), torch.tensor(5)), {"added": added, "scale": 2.0, "mask": torch.ones(2)})
    assert list(call.tensors) == ["sample", "step", "embeds", "sizes.0", "sizes.1", "mask"]
    given = call.form.filled(call.tensors).arguments
    assert given["more"]["scale"] == 2.0
    assert torch.equal(given["added"]["sizes"][1], torch.zeros(2))


def test_names_that_are_taken_twice_say_where_they_are() -> None:
    call = Call.of(reads, (torch.ones(1), 1.0), {"added": {"x": torch.ones(1)}, "other": {"x": torch.zeros(1)}})
    assert list(call.tensors) == ["sample", "added.x", "more.other.x"]


def test_rows_are_cut_and_what_all_share_is_not() -> None:
    call = Call.of(reads, (torch.arange(6.0).reshape(2, 3), torch.tensor(7)), {"added": {"places": torch.ones(5, 2)}})
    assert call.rows == 2
    row = call.row(1)
    assert row["sample"].tolist() == [[3, 4, 5]]
    assert row["step"].shape == ()
    assert row["places"].shape == (5, 2)
    assert call.spread().row(1)["step"].tolist() == [7]


def test_what_is_recorded_is_a_copy() -> None:
    held = torch.ones(2)
    call = Call.of(reads, (held, 1.0), {})
    held += 1
    assert call.tensors["sample"].tolist() == [1, 1]


def test_calls_fit_where_only_tensors_differ() -> None:
    one, other, third = (Call.of(reads, (torch.rand(2), number), {}) for number in (1.0, 1.0, 2.0))
    assert one.form.fits(other.form)
    assert not one.form.fits(third.form)
    assert not one.form.fits(Call.of(reads, (torch.rand(2), torch.tensor(1.0)), {}).form)


def test_names_may_be_replaced() -> None:
    call = Call.of(reads, (torch.ones(2), 1.0), {}).renamed({"sample": "latent"})
    assert list(call.tensors) == ["latent"]
    assert torch.equal(call.form.filled(call.tensors).arguments["sample"], torch.ones(2))


class Several(nn.Module):
    def forward(self, x: Tensor, times: int, named: bool) -> Any:
        made = x * times
        return {"made": made, "x": made, "nothing": None} if named else (made,)


def test_a_module_is_called_as_it_was_with_other_tensors() -> None:
    module = Several()
    for named, outputs in ((True, ("made", "out_x")), (False, ("out",))):
        call = Call.of(module.forward, (torch.ones(2), 3), {"named": named})
        found = CalledModule(module, module.forward, call, "out")(torch.full((2,), 2.0))
        assert {name: value.tolist() for name, value in found.items()} == {name: [6.0, 6.0] for name in outputs}
