"""Finds numbers that are no numbers: which value of a network, and which sample, first went wrong."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class NotFiniteError(ValueError):
    """A value of a network is NaN or infinite; `value` is its name and `sample` the index of the sample."""

    def __init__(self, value: str, sample: int, found: str) -> None:
        super().__init__(
            f"{value}: {found} in sample {sample}; check that sample and how it is preprocessed, and that the float "
            f"network gives finite numbers for it"
        )
        self.value, self.sample = value, sample


def check_finite(values: Mapping[str, Tensor], first_sample: int = 0) -> None:
    """Raises NotFiniteError for the first value, in the order of the mapping, that holds NaN or infinity.

    Samples are counted along the first axis, from `first_sample` on. Give the values in running order and the one
    named is where the trouble begins.
    """
    for name, tensor in values.items():
        if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
            continue
        rows = tensor.reshape(len(tensor), -1) if tensor.dim() else tensor.reshape(1, 1)
        sample = int((~torch.isfinite(rows)).any(dim=1).nonzero()[0])
        found = "NaN" if bool(torch.isnan(rows[sample]).any()) else "infinity"
        raise NotFiniteError(name, first_sample + sample, found)
