"""The watch sees every product of a real run, what writers are added to, and stops when told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitwright.graph import Enough, Watch, WeightView, run_watched, trace
from conformance import models


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


def test_products_come_with_their_inputs_in_order() -> None:
    model, x, seen = Small(), torch.randn(2, 3, 4), []
    watch = Watch(dict(model.named_parameters()), lambda view, read: seen.append((view, read)))
    run_watched(lambda: model(x), watch)
    assert [view for view, _ in seen] == [WeightView("up.weight", (8, 4)), WeightView("down.weight", (4, 8))]
    assert torch.equal(seen[0][1], x.reshape(6, 4))
    assert torch.allclose(seen[1][1], torch.relu(model.up(x)).reshape(6, 8))


def test_what_a_writer_is_added_to_is_handed_out() -> None:
    model, x, added = Small(), torch.randn(2, 3, 4), {}
    watch = Watch(
        dict(model.named_parameters()), lambda view, read: None, lambda v, other: added.update({v.name: other})
    )
    run_watched(lambda: model(x), watch)
    assert list(added) == ["down"] and torch.equal(added["down"], x)


def test_enough_ends_the_run_early() -> None:
    model, seen = Small(), []

    def stop(view: WeightView, read: Tensor) -> None:
        seen.append(view.name)
        raise Enough

    run_watched(lambda: model(torch.randn(1, 1, 4)), Watch(dict(model.named_parameters()), stop))
    assert seen == ["up"]


def test_errors_of_the_model_come_through() -> None:
    model = Small()
    with pytest.raises(RuntimeError, match="shapes|dimension"):
        run_watched(lambda: model(torch.randn(1, 5)), Watch(dict(model.named_parameters()), lambda view, read: None))


def test_weights_that_are_not_named_are_not_watched() -> None:
    model, seen = Small(), []
    watch = Watch({"up.weight": model.up.weight}, lambda view, read: seen.append(view.name))
    run_watched(lambda: model(torch.randn(1, 1, 4)), watch)
    assert seen == ["up"]


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon", "mixtral", "llama4", "deepseek"])
def test_a_real_run_shows_the_linears_of_the_trace(family: str) -> None:
    graph, model, seen = trace(models.skeleton(family)), models.real(family), set()
    watch = Watch(dict(model.named_parameters()), lambda view, read: seen.add(view))
    run_watched(lambda: model(input_ids=torch.arange(3, 40)[None], use_cache=False), watch)
    inside = set(graph.views().values())
    routed = {linear.view for block in graph.blocks for linear in block.linears if linear.routed}
    assert inside - routed <= seen
    assert {view.parameter for view in seen - inside} <= {one.parameter for one in graph.outside}
