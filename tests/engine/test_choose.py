"""The error on held-out rows that decides, and weights written into a block in place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.engine.choose import HeldOut, Writer, relative_error
from bitwright.execute import StreamFile
from bitwright.graph import WeightView
from bitwright.numerics import PER_TENSOR, Float8, Int, MinMax, Spec, per_group, quantize
from engine.passes import ROWS, Setting, setting
from engine.tiny import model


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("choose")
    return setting(model(folder / "model"), folder, 1)


def held_out(one: Setting, ranges: list[tuple[int, int]]) -> HeldOut:
    """Held-out rows with the original stream behind the block."""
    one.taped()
    behind = StreamFile(one.folder / "behind", one.streams.original.shape, torch.float32)
    return HeldOut(one.streams, behind, ranges)


def test_the_error_is_the_mean_over_tokens_of_the_relative_squared_distance(one: Setting) -> None:
    start, stop = ROWS.kept_back[0]
    found = held_out(one, ROWS.kept_back).error(one.block)
    with torch.no_grad():
        wanted = one.block.run(one.block.original, one.streams.original.read(start, stop), start).double()
        output = one.block.run(one.block.quantized, one.streams.quantized.read(start, stop), start).double()
    by_hand = ((output - wanted) ** 2).sum(-1) / (wanted**2).sum(-1)
    assert found == pytest.approx(float(by_hand.mean()), rel=1e-5)


def test_batches_of_other_sizes_give_the_same_error(one: Setting) -> None:
    whole, single = held_out(one, [(2, 10)]), held_out(one, [(2, 3), (3, 8), (8, 10)])
    assert whole.error(one.block) == pytest.approx(single.error(one.block), rel=1e-5)


def test_an_output_that_is_not_finite_is_infinitely_wrong(tmp_path: Path) -> None:
    broken = setting(model(tmp_path / "model"), tmp_path, 0)
    with torch.no_grad():
        broken.block.quantized.get_parameter("mlp.down_proj.weight")[0, 0] = float("nan")
    assert held_out(broken, ROWS.kept_back).error(broken.block) == float("inf")


def test_a_loud_token_counts_like_a_quiet_one() -> None:
    wanted = torch.tensor([[[1000.0, 0.0], [0.0, 0.1]]])
    assert relative_error(wanted * 1.1, wanted).tolist() == [pytest.approx([0.01, 0.01], rel=1e-5)]
    assert relative_error(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)).tolist() == [[0.0]]


def test_weights_go_in_place_into_whole_transposed_and_fused_parameters() -> None:
    module = nn.Module()
    module.whole, module.turned = nn.Linear(3, 2), nn.Linear(3, 2)
    module.fused = nn.Parameter(torch.zeros(2, 4, 3, dtype=torch.bfloat16))
    places = [p.data_ptr() for p in module.parameters()]
    values = {
        WeightView("block.whole.weight", (2, 3)): torch.arange(6.0).reshape(2, 3),
        WeightView("block.turned.weight", (3, 2), transposed=True): torch.arange(6.0).reshape(3, 2),
        WeightView("block.fused", (4, 3), index=1): torch.full((4, 3), 1 / 3),
    }
    writer = Writer(module, "block")
    for view, matrix in values.items():
        writer.put(view, matrix)
    assert torch.equal(module.whole.weight, torch.arange(6.0).reshape(2, 3))
    assert torch.equal(module.turned.weight, torch.arange(6.0).reshape(3, 2).T)
    assert torch.equal(module.fused[1], torch.full((4, 3), 1 / 3).bfloat16()) and not module.fused[0].any()
    assert places == [p.data_ptr() for p in module.parameters()]


@pytest.mark.parametrize("spec", [Spec(Int(4), per_group(2)), Spec(Int(4), PER_TENSOR), Spec(Float8())], ids=str)
def test_a_quantized_tensor_is_put_some_rows_at_a_time(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    qtensor = quantize(weight, spec, None if spec.tile is None else MinMax().fit(spec, weight))
    module = nn.Linear(4, 5, bias=False)
    monkeypatch.setattr("bitwright.numerics.qtensor._CHUNK", 8)
    Writer(module, "block").put_qtensor(WeightView("block.weight", (5, 4)), qtensor)
    assert torch.equal(module.weight, qtensor.dequantize())


def test_activations_whose_squares_no_float32_holds_are_compared() -> None:
    wanted = torch.tensor([[[3e20, -4e20]]])
    assert float(relative_error(1.1 * wanted, wanted)) == pytest.approx(0.01, rel=1e-5)
