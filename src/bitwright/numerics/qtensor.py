"""One weight in stored form: codes, and the scale and zero of every tile.

A scale is a tensor too, so it is held as another QTensor, down to plain floats. `quantize` rounds a matrix to the
nearest representable one under given scales and zeros; `store_params` first rounds scales and zeros to the precision
in which they will lie on disk, so that codes are always chosen against what a reader will multiply with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from bitwright.numerics.spec import Spec


@final
@dataclass(frozen=True, slots=True)
class Params:
    """Scale and zero of every tile, float32 [tiles down, tiles across]; `zero` None: symmetric."""

    scale: Float[Tensor, "down across"]
    zero: Float[Tensor, "down across"] | None = None


@final
@dataclass(frozen=True, slots=True)
class QTensor:
    """value = (code - zero) * scale, tile by tile; `residual` is a further term that is added, or None."""

    codes: Shaped[Tensor, "out in"]
    spec: Spec
    scale: QTensor | None = None
    zero: QTensor | None = None
    residual: QTensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def bits(self) -> int:
        """Stored bits of everything: codes, scales, zeros, residual."""
        return self.spec.bits(self.shape) + (self.residual.bits if self.residual else 0)

    @property
    def params(self) -> Params | None:
        """Scales and zeros as a reader will see them; None where the spec has no tile."""
        if self.scale is None:
            return None
        return Params(self.scale.dequantize(), self.zero.dequantize() if self.zero else None)

    def dequantize(self) -> Float[Tensor, "out in"]:
        """The matrix that this tensor stands for, float32."""
        values = self.spec.format.decode(self.codes)
        params = self.params
        if params is not None:
            assert self.spec.tile is not None
            if params.zero is not None:
                values = values - self.spec.tile.spread(params.zero, self.shape)
            values = values * self.spec.tile.spread(params.scale, self.shape)
        return values if self.residual is None else values + self.residual.dequantize()


def quantize(weight: Float[Tensor, "out in"], spec: Spec, params: Params | None) -> QTensor:
    """The nearest stored matrix under these scales and zeros (which are rounded to their own storage first)."""
    if params is None:
        return QTensor(spec.format.encode(weight.float()), spec)
    stored = store_params(spec, params)
    return assemble(spec.format.encode(to_scaled(weight.float(), spec, stored)), spec, stored)


def to_scaled(weight: Float[Tensor, "out in"], spec: Spec, params: Params) -> Float[Tensor, "out in"]:
    """weight / scale + zero: the numbers that the format rounds."""
    assert spec.tile is not None
    shape = (weight.shape[0], weight.shape[1])
    scaled = weight / spec.tile.spread(params.scale, shape)
    return scaled if params.zero is None else scaled + spec.tile.spread(params.zero, shape)


def assemble(codes: Shaped[Tensor, "out in"], spec: Spec, params: Params) -> QTensor:
    """A QTensor from codes chosen elsewhere and params that `store_params` has rounded."""
    assert spec.scale is not None
    zero = None
    if spec.zero is not None:
        assert params.zero is not None
        zero = store_plain(params.zero, spec.zero)
    return QTensor(codes, spec, store_scale(params.scale, spec.scale), zero)


def store_params(spec: Spec, params: Params) -> Params:
    """The params after storage: what a reader multiplies with. Idempotent; a scale never becomes zero."""
    assert spec.scale is not None
    scale = store_scale(params.scale, spec.scale).dequantize()
    if spec.zero is None:
        return Params(scale)
    assert params.zero is not None
    return Params(scale, store_plain(params.zero, spec.zero).dequantize())


def store_plain(values: Float[Tensor, "down across"], spec: Spec) -> QTensor:
    """Values in stored form; where they have a scale of their own it is fitted by their largest magnitude."""
    if spec.tile is None:
        return QTensor(spec.format.encode(values), spec)
    params = store_params(spec, Params(_absmax_scale(spec, values)))
    return assemble(spec.format.encode(to_scaled(values, spec, params)), spec, params)


def store_scale(scale: Float[Tensor, "down across"], spec: Spec) -> QTensor:
    """Scales in stored form; what would become zero is the smallest number instead, of the same sign if it can be."""
    floor = torch.full_like(scale, spec.format.tiny)
    if spec.tile is not None:
        outer = store_params(spec, Params(_absmax_scale(spec, scale))).scale
        floor = floor * spec.tile.spread(outer, (scale.shape[0], scale.shape[1])).abs()
    if spec.format.low >= 0:
        return store_plain(torch.maximum(scale, floor), spec)
    return store_plain(torch.where(scale.abs() < floor, torch.copysign(floor, scale), scale), spec)


def _absmax_scale(spec: Spec, values: Float[Tensor, "down across"]) -> Float[Tensor, "down2 across2"]:
    assert spec.tile is not None
    limit = min(-spec.format.low, spec.format.high) if spec.format.low < 0 else spec.format.high
    largest = spec.tile.split(values).abs().amax(-1)
    # idempotent: x = fl(largest / limit) is also fl(fl(limit * x) / limit), so that storing twice changes nothing
    return torch.where(largest > 0, largest / limit, torch.ones_like(largest))
