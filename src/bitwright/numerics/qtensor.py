"""One weight in stored form: codes, and the scale and zero of every tile.

A scale is a tensor too, so it is held as another QTensor, down to plain floats. `quantize` rounds a matrix to the
nearest representable one under given scales and zeros; `store_params` first rounds scales and zeros to the precision
in which they will lie on disk, so that codes are always chosen against what a reader will multiply with.
"""

from __future__ import annotations

from collections.abc import Sequence
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
            tiles = self.spec.tile.apart(values)
            if params.zero is not None:
                tiles = tiles - params.zero[:, None, :, None]
            values = (tiles * params.scale[:, None, :, None]).reshape(self.shape)
        return values if self.residual is None else values + self.residual.dequantize()

    def rows(self, start: int, stop: int) -> QTensor:
        """These rows; only for tensors that `row_ranges` may cut there."""
        if (start, stop) == (0, self.shape[0]):
            return self
        scale = None if self.scale is None else self.scale.rows(start, stop)
        zero = None if self.zero is None else self.zero.rows(start, stop)
        return QTensor(self.codes[start:stop], self.spec, scale, zero)


_CHUNK = 6 << 20  # elements worked on at a time where rows allow it: 24 MiB in float32, which the C library keeps


def may_cut_rows(spec: Spec) -> bool:
    """Whether rows have nothing in common: tiles are one row high, and their scales and zeros are plain numbers."""
    inner = (spec.scale, spec.zero)
    return spec.tile is None or (spec.tile.rows == 1 and all(one is None or one.tile is None for one in inner))


def row_ranges(spec: Spec, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Ranges of rows that can be worked on apart, some 24 MiB each; one range where rows share scales."""
    step = max(1, _CHUNK // shape[1]) if may_cut_rows(spec) else shape[0]
    return [(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def stack_rows(parts: Sequence[QTensor]) -> QTensor:
    """Tensors of one spec, one below the other; the inverse of `QTensor.rows`."""
    first = parts[0]
    if len(parts) == 1:
        return first
    scales = [part.scale for part in parts if part.scale is not None]
    zeros = [part.zero for part in parts if part.zero is not None]
    return QTensor(
        torch.cat([part.codes for part in parts]),
        first.spec,
        stack_rows(scales) if scales else None,
        stack_rows(zeros) if zeros else None,
    )


def quantize(weight: Float[Tensor, "out in"], spec: Spec, params: Params | None) -> QTensor:
    """The nearest stored matrix under these scales and zeros (which are rounded to their own storage first)."""
    if params is None:
        return QTensor(spec.format.encode(weight.float()), spec)
    stored = store_params(spec, params)
    return assemble(spec.format.encode(to_scaled(weight.float(), spec, stored)), spec, stored)


def to_scaled(weight: Float[Tensor, "out in"], spec: Spec, params: Params) -> Float[Tensor, "out in"]:
    """weight / scale + zero: the numbers that the format rounds."""
    assert spec.tile is not None
    scaled = spec.tile.apart(weight) / params.scale[:, None, :, None]
    if params.zero is not None:
        scaled += params.zero[:, None, :, None]
    return scaled.reshape(weight.shape)


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
