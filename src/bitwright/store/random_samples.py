"""Random samples for a network of which the user gave none: enough to see that a file runs and what it costs.

They say nothing of how well it does on real data, and nothing is ever calibrated on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bitwright.graph.network import Value
from bitwright.store.onnx_tensors import DTYPES
from bitwright.store.sample_set import Feed, Samples, SamplesError, gather, stacking_of

FREE = 16  # the size of a free axis
TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}


def random_samples(inputs: Sequence[Value], count: int) -> Samples:
    """Normal numbers for floats, 0 or 1 for integers, which may be indices; seeded. SamplesError for other inputs."""
    shares = stacking_of(inputs).shares
    for value in inputs:
        if value.shape is None or value.dtype not in TYPES:
            raise SamplesError(f"{value.name}: no random numbers for an input of type {value.dtype} and unknown shape")

    def read(index: int) -> tuple[str, Feed]:
        draws = torch.Generator().manual_seed(index)
        return f"random {index}", {value.name: _random(value, shares, draws) for value in inputs}

    return gather(inputs, count, count, f"random numbers, free axes of size {FREE}", read)


def _random(value: Value, shares: bool, draws: torch.Generator) -> Tensor:
    assert value.shape is not None
    shape = [FREE if size is None else size for size in value.shape]
    if shares and shape:
        shape[0] = 1
    if not shape:  # one for all, so that samples can share a batch
        draws = torch.Generator().manual_seed(0)
    dtype = TYPES[value.dtype]
    if dtype.is_floating_point:
        return torch.randn(shape, generator=draws).to(dtype)
    return torch.randint(0, 2, shape, generator=draws).to(dtype)
