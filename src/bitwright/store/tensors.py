"""Quantized tensors as named arrays, and back.

`name.codes` holds the packed codes of a weight; scales and zeros are tensors of the same kind under `name.scale` and
`name.zero`, down to plain floats. What a spec counts in bits is exactly what lies in these arrays.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bitwright.numerics import QTensor, Spec


def flatten(name: str, qtensor: QTensor) -> dict[str, Tensor]:
    """The arrays of one tensor."""
    arrays = {f"{name}.codes": qtensor.spec.format.pack(qtensor.codes).contiguous()}
    for part, held in (("scale", qtensor.scale), ("zero", qtensor.zero), ("residual", qtensor.residual)):
        if held is not None:
            arrays |= flatten(f"{name}.{part}", held)
    return arrays


def gather(name: str, spec: Spec, shape: tuple[int, int], arrays: Mapping[str, Tensor]) -> QTensor:
    """The tensor that `flatten` took apart; a residual has no spec of its own yet, so there must be none."""
    assert f"{name}.residual.codes" not in arrays
    codes = spec.format.unpack(arrays[f"{name}.codes"], shape)
    if spec.tile is None:
        return QTensor(codes, spec)
    tiles = spec.tile.count(shape)
    assert spec.scale is not None
    scale = gather(f"{name}.scale", spec.scale, tiles, arrays)
    return QTensor(codes, spec, scale, gather(f"{name}.zero", spec.zero, tiles, arrays) if spec.zero else None)
