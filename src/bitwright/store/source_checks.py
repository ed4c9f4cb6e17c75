"""What must hold between a checkpoint and the model that its config.json describes.

Every tensor of the model must be there, have the model's shape, and be stored as plain float numbers: integers or
8-bit floats in place of a weight mean that the model is quantized already. These checks need headers alone. Only that
all numbers are finite has to wait until a tensor is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bitwright.store.renames import Renames
from bitwright.store.source_error import SourceError
from bitwright.store.weight_files import WeightFiles

WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SHOWN = 5


def check_shapes(renames: Renames, files: WeightFiles) -> None:
    """Raises SourceError if a tensor of the checkpoint has another shape than the model's, or is no float."""
    state = renames.model.state_dict()
    for name, found in renames.shapes.items():
        origin = _origin(name, renames, files)
        if name not in state or tuple(state[name].shape) != found.shape:
            wanted = f"{tuple(state[name].shape)}" if name in state else "no such tensor"
            raise SourceError(
                f"{origin}: the checkpoint gives shape {found.shape}, the model of config.json has {wanted}. "
                f"Use the config.json that belongs to these weights; of merged tensors, look for one that is missing."
            )
        for source in renames.by_name[name].checkpoint_names:
            dtype = files.tensors[source].dtype
            if state[name].is_floating_point() and dtype not in WEIGHT_DTYPES:
                raise SourceError(
                    f"{origin}: {source} is stored as {dtype}; a weight must be float32, bfloat16, float16 or float64. "
                    f"This model seems to be quantized already; start from the model that it was made from."
                )


def check_complete(path: Path, renames: Renames, ties: Mapping[str, str]) -> None:
    """Raises SourceError if the checkpoint in ``path`` lacks a parameter or a buffer that cannot be computed."""
    model = renames.model
    optional = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    lacking = [name for name in model.state_dict() if name not in renames.shapes and name not in ties]
    missing = [name for name in lacking if name in parameters or not any(pattern.search(name) for pattern in optional)]
    if missing:
        raise SourceError(
            f"{path}: the checkpoint lacks {_shortened(missing)}, needed by the model of config.json "
            f"(not used by it: {_shortened(renames.unused) or 'none'}). Download the folder again, or use the "
            f"config.json that belongs to these weights."
        )


def check_finite(name: str, tensor: Tensor, renames: Renames, files: WeightFiles) -> None:
    """Raises SourceError if a number in ``tensor`` is NaN or infinite."""
    if not tensor.is_floating_point() or not tensor.numel():
        return
    least, most = tensor.aminmax()  # NaN if any is; 20 times as fast as torch.isfinite, and without a copy
    if not torch.isfinite(least) or not torch.isfinite(most):
        broken = int((~torch.isfinite(tensor)).sum())
        raise SourceError(
            f"{_origin(name, renames, files)}: {broken} of {tensor.numel()} numbers are NaN or infinite in "
            f"{tensor.dtype}; weights must be finite. Download the checkpoint again, or repair it."
        )


def _origin(name: str, renames: Renames, files: WeightFiles) -> str:
    first, *others = renames.by_name[name].checkpoint_names
    more = f" and {len(others)} more" if others else ""
    return f"{name} ({first}{more} in {files.homes[first]})"


def _shortened(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if names[SHOWN:] else ""
    return ", ".join(names[:SHOWN]) + more
