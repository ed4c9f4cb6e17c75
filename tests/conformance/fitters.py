"""What every fitter has to satisfy on every spec. Outsiders: `check(fitter, spec)` for each `check` in CHECKS."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.numerics import AbsMax, AbsMse, Fitter, Int, MinMax, MseGrid, Spec, quantize, store_params
from conformance.specs import random_weight

FITTERS: dict[str, Fitter] = {
    "AbsMax": AbsMax(),
    "AbsMse": AbsMse(steps=4),
    "MinMax": MinMax(),
    "MseGrid": MseGrid(steps=3, fine=1),
}

SHAPE = (8, 256)


def nasty_weights() -> dict[str, Tensor]:
    """Tiles that break careless scales."""
    normal = random_weight(*SHAPE)
    one_outlier = torch.full(SHAPE, 1e-3)
    one_outlier[:, ::16] = -1e3
    part = normal.clone()
    part[:4] = 0
    part[:, :64] = 0
    return {
        "zero": torch.zeros(SHAPE),
        "one positive value": torch.full(SHAPE, 0.7),
        "one negative value": torch.full(SHAPE, -0.7),
        "one outlier": one_outlier,
        "tiny": normal * 1e-30,
        "subnormal": normal * 1e-43,
        "huge": normal * 1e30,
        "nearly infinite": normal.sign() * 1e38,
        "partly zero": part,
        "mixed sizes": normal * torch.logspace(-20, 20, SHAPE[1]),
    }


def params_are_finite_and_scales_not_zero(fitter: Fitter, spec: Spec) -> None:
    for name, weight in nasty_weights().items():
        params = fitter.fit(spec, weight)
        assert bool(torch.isfinite(params.scale).all()), name
        assert bool((params.scale != 0).all()), name
        assert params.zero is None or bool(torch.isfinite(params.zero).all()), name
        assert bool(torch.isfinite(quantize(weight, spec, params).dequantize()).all()), name


def params_have_one_entry_per_tile(fitter: Fitter, spec: Spec) -> None:
    params = fitter.fit(spec, random_weight(*SHAPE))
    assert spec.tile is not None
    assert params.scale.dtype == torch.float32 and params.scale.shape == spec.tile.count(SHAPE)
    assert (params.zero is None) == (spec.zero is None)
    assert params.zero is None or params.zero.shape == params.scale.shape


def params_are_as_stored(fitter: Fitter, spec: Spec) -> None:
    params = fitter.fit(spec, random_weight(*SHAPE))
    stored = store_params(spec, params)
    assert torch.equal(stored.scale, params.scale)
    assert params.zero is None or (stored.zero is not None and torch.equal(stored.zero, params.zero))


def a_stored_zero_reproduces_zero(fitter: Fitter, spec: Spec) -> None:
    if spec.zero is None or not isinstance(spec.zero.format, Int) or spec.zero.tile is not None:
        return
    for name, weight in nasty_weights().items():
        params = fitter.fit(spec, weight)
        zero = quantize(torch.zeros(SHAPE), spec, params).dequantize()
        assert bool((zero == 0).all()), name


def the_weight_is_left_alone(fitter: Fitter, spec: Spec) -> None:
    weight = random_weight(*SHAPE)
    importance = torch.rand(1, SHAPE[1])
    fitter.fit(spec, weight, importance)
    assert torch.equal(weight, random_weight(*SHAPE))


def importance_that_is_equal_changes_nothing(fitter: Fitter, spec: Spec) -> None:
    weight = random_weight(*SHAPE)
    plain, equal = fitter.fit(spec, weight), fitter.fit(spec, weight, torch.ones(1, SHAPE[1]))
    whole = fitter.fit(spec, weight, torch.ones(SHAPE))
    assert torch.equal(plain.scale, equal.scale) and torch.equal(plain.scale, whole.scale)


def a_nonzero_weight_is_not_lost(fitter: Fitter, spec: Spec) -> None:
    if spec.format.bits == 1:
        return  # a range from end to end is of no use to two values
    weight = random_weight(*SHAPE)
    error = (quantize(weight, spec, fitter.fit(spec, weight)).dequantize() - weight).square().sum()
    limit = 0.6 if spec.format.bits == 2 else 0.1  # of all that is there
    assert float(error) < limit * float(weight.square().sum())


CHECKS = (
    params_are_finite_and_scales_not_zero,
    params_have_one_entry_per_tile,
    params_are_as_stored,
    a_stored_zero_reproduces_zero,
    the_weight_is_left_alone,
    importance_that_is_equal_changes_nothing,
    a_nonzero_weight_is_not_lost,
)
