"""AbsMse is the best of its grid, judged by a loop."""

from __future__ import annotations

import torch

from bitwright.numerics import PER_ROW, AbsMax, AbsMse, Int, Params, Spec, quantize

SPEC = Spec(Int(4), PER_ROW)


def test_it_is_the_best_factor_of_the_grid_for_every_row() -> None:
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    found = AbsMse(steps=8, lowest=0.4).fit(SPEC, weight).scale
    start = AbsMax().fit(SPEC, weight).scale
    for row in range(5):
        errors = {}
        for step in range(8):
            scale = float(start[row]) * (1 - 0.6 * step / 7)
            codes = [min(7, max(-8, round(float(w) / scale))) for w in weight[row]]
            errors[scale] = sum((float(w) - code * scale) ** 2 for w, code in zip(weight[row], codes, strict=True))
        best = min(errors, key=lambda scale: errors[scale])
        assert abs(float(found[row]) - best) < 1e-6


def test_scales_are_positive_and_clipping_pays_at_few_bits() -> None:
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(1))
    params, plain = AbsMse().fit(SPEC, weight), AbsMax().fit(SPEC, weight)
    assert bool((params.scale > 0).all())

    def error(found: Params) -> float:
        return float((quantize(weight, SPEC, found).dequantize() - weight).square().mean())

    assert error(params) < 0.9 * error(plain)


def test_importance_decides_what_is_kept() -> None:
    weight = torch.full((1, 32), 0.1)
    weight[0, 0] = 1.0
    heavy = torch.ones(1, 32)
    heavy[0, 0] = 1e4
    assert float(AbsMse().fit(SPEC, weight, heavy).scale) > float(AbsMse().fit(SPEC, weight).scale)
