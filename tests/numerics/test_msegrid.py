"""The search against brute force over the same grid, and against the reference distortion table."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitwright.numerics import (
    E2M1,
    NF4,
    TERNARY,
    Fitter,
    Int,
    MinMax,
    MseGrid,
    Params,
    PowerOfTwo,
    Spec,
    Tile,
    per_group,
    quantize,
    store_params,
)
from conformance import references
from conformance.specs import SPECS, random_weight

UNSIGNED4 = Int(4, signed=False)
SMALL = {
    "int4": Spec(Int(4), per_group(8)),
    "int4_float16": Spec(Int(4), per_group(8), scale=SPECS["int4"].scale),
    "int4_asymmetric": Spec(UNSIGNED4, per_group(8), zero=Spec(UNSIGNED4)),
    "int2_asymmetric": Spec(Int(2, signed=False), per_group(8), zero=Spec(Int(2, signed=False))),
    "nf4": Spec(NF4, per_group(8)),
}


def error_of(spec: Spec, weight: Tensor, params: Params, importance: Tensor | None = None) -> Tensor:
    """The (weighted) squared error of every row, float64, with values found by looking at all of them."""
    assert spec.tile is not None
    shape = (weight.shape[0], weight.shape[1])
    scale = spec.tile.spread(params.scale, shape).double()
    zero = 0 if params.zero is None else spec.tile.spread(params.zero, shape).double()
    value = (references.nearest(spec.format.values(), weight.double() / scale + zero) - zero) * scale
    squared = (value - weight).square()
    return (squared if importance is None else squared * importance).sum(1)


def brute_force(spec: Spec, row: Tensor, down: float, up: float) -> Params:
    """Stored params of the range [down * min, up * max] of one tile, from the definition alone."""
    form = spec.format
    if spec.zero is None:
        extreme = max(row.tolist(), key=abs)
        scale = down * extreme / form.low if -form.low > form.high else down * abs(extreme) / form.high
        return store_params(spec, Params(torch.tensor([[scale]])))
    low, high = min(0.0, down * float(row.min())), max(0.0, up * float(row.max()))
    scale = (high - low) / (form.high - form.low)
    return store_params(spec, Params(torch.tensor([[scale]]), torch.tensor([[form.low - low / scale]])))


def stretches(spec: Spec) -> list[float]:
    """Ranges wider than the tile's, which only formats of uneven steps are given."""
    return [] if isinstance(spec.format, Int) else [1.125, 1.25, 1.375, 1.5]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("spec", SMALL.values(), ids=SMALL)
def test_without_fine_steps_it_is_the_best_of_its_own_grid(spec: Spec, weighted: bool) -> None:
    weight = random_weight(24, 8)
    importance = torch.rand(1, 8) ** 4 if weighted else None
    found = error_of(spec, weight, MseGrid(steps=9, lowest=0.4, fine=0).fit(spec, weight, importance), importance)
    for i, row in enumerate(weight):
        shrinks = [1 - 0.6 * k / 8 for k in range(9)] + stretches(spec)
        errors = [error_of(spec, row[None], brute_force(spec, row, s, s), importance) for s in shrinks]
        assert float(found[i]) == pytest.approx(float(min(errors)), rel=1e-4)


@pytest.mark.parametrize("spec", SMALL.values(), ids=SMALL)
def test_fine_steps_reach_what_a_greedy_search_by_hand_reaches(spec: Spec) -> None:
    weight = random_weight(24, 8, seed=1)
    found = error_of(spec, weight, MseGrid(steps=8, lowest=0.3, fine=2).fit(spec, weight))
    for i, row in enumerate(weight):
        best, down, up = min(
            (float(error_of(spec, row[None], brute_force(spec, row, s, s))), s, s)
            for s in [1 - 0.7 * k / 7 for k in range(8)] + stretches(spec)
        )
        for step in (0.05, 0.025):
            moves = [(step, step), (-step, -step)]
            if spec.zero is not None:
                moves += [(step, 0), (-step, 0), (0, step), (0, -step)]
            tried = [
                (float(error_of(spec, row[None], brute_force(spec, row, down + a, up + b))), down + a, up + b)
                for a, b in moves
            ]
            best, down, up = min([(best, down, up), *tried])
        assert float(found[i]) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", SPECS)
def test_it_is_never_worse_than_minmax(name: str, weighted: bool) -> None:
    spec, weight = SPECS[name], random_weight(16, 512)
    importance = torch.rand(1, 512) ** 4 if weighted else None
    found, full = MseGrid(steps=5, fine=1).fit(spec, weight, importance), MinMax().fit(spec, weight)
    before, after = error_of(spec, weight, full, importance), error_of(spec, weight, found, importance)
    shared = spec.tile is None or spec.tile.rows != 1 or name == "nvfp4"
    if shared:
        before, after = before.sum(0, keepdim=True), after.sum(0, keepdim=True)
    assert bool((after <= before * (1 + 1e-5)).all())


def test_coarse_shared_scales_never_make_it_worse_either() -> None:
    """Tiles choose alone, then share scales of three bits: where that is worse, a group keeps the full range."""
    spec = Spec(Int(4), per_group(4), scale=Spec(Int(3), Tile(1, 4)))
    weight = random_weight(500, 16)
    before, after = (error_of(spec, weight, fitter.fit(spec, weight)) for fitter in (MinMax(), MseGrid(steps=6)))
    assert bool((after <= before * (1 + 1e-5)).all()) and float(after.sum()) < 0.99 * float(before.sum())


@pytest.mark.parametrize("name", ["int4", "int2_asymmetric", "mxfp4", "fp8_block", "k_quant"])
def test_chunks_of_rows_do_not_change_the_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, weight, importance = SPECS[name], random_weight(32, 256), torch.rand(32, 256)
    whole = MseGrid(steps=5).fit(spec, weight, importance)
    monkeypatch.setattr("bitwright.numerics.msegrid._CHUNK", 256 * 8)
    parts = MseGrid(steps=5).fit(spec, weight, importance)
    assert torch.equal(whole.scale, parts.scale)
    assert whole.zero is None or (parts.zero is not None and torch.equal(whole.zero, parts.zero))


@pytest.mark.parametrize(
    ("spec", "fitter", "expected"),
    [
        (Spec(Int(4), per_group(128)), MinMax(), 0.01064),
        (Spec(Int(4), per_group(128)), MseGrid(), 0.00934),
        (Spec(UNSIGNED4, per_group(128), zero=Spec(UNSIGNED4)), MinMax(), 0.01011),
        (Spec(UNSIGNED4, per_group(128), zero=Spec(UNSIGNED4)), MseGrid(), 0.00902),
        (Spec(Int(3, False), per_group(128), zero=Spec(Int(3, False))), MinMax(), 0.0464),
        (Spec(Int(3, False), per_group(128), zero=Spec(Int(3, False))), MseGrid(), 0.0348),
        (Spec(Int(2, False), per_group(128), zero=Spec(Int(2, False))), MinMax(), 0.2526),
        (Spec(Int(2, False), per_group(128), zero=Spec(Int(2, False))), MseGrid(), 0.1358),
        (Spec(Int(2), per_group(128)), MinMax(), 0.1794),
        (Spec(TERNARY, per_group(128)), MseGrid(), 0.187),
        (Spec(NF4, per_group(64)), MinMax(), 0.00846),
        (Spec(NF4, per_group(64)), MseGrid(), 0.00727),  # 0.00743 without stretching
        (Spec(E2M1(), per_group(32), scale=Spec(PowerOfTwo())), MinMax(), 0.0148),
        (Spec(E2M1(), per_group(32), scale=Spec(PowerOfTwo())), MseGrid(), 0.0125),
    ],
    ids=lambda value: str(value),
)
def test_distortion_of_normal_weights_is_that_of_the_table(spec: Spec, fitter: Fitter, expected: float) -> None:
    weight = torch.randn(384, 512, generator=torch.Generator().manual_seed(0))
    found = (quantize(weight, spec, fitter.fit(spec, weight)).dequantize() - weight).square().mean()
    assert float(found) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"lowest": 0.0}, {"lowest": 1.5}, {"fine": -1}], ids=str)
def test_a_grid_that_makes_no_sense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="MseGrid wants"):
        MseGrid(**wrong)
