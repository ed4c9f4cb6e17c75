"""A PyTorch module that the user's own function builds, as a source: `package.module:factory`.

The module is exported to ONNX once, with the first batch of the loader as its example. What identifies the source is
the module's state, not the file, which depends on the exporter's version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.store.files import tensors_digest
from bitwright.store.hooks import HookError, here_on_path, load_hook, users_code
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.source_error import SourceError
from bitwright.store.torch_module import CANNOT_TRACE, export_module

Example = Sequence[Tensor] | Mapping[str, Tensor]


def module_source(name: str, example: Example, folder: Path) -> OnnxSource:
    """The network of the module that `package.module:factory` returns, exported to `folder`/model.onnx.

    `example`: its inputs, by place or by name. Raises HookError for a function that is not there or gives no module,
    SourceError for a module that cannot be exported.
    """
    return source_of(build_module(load_hook(name), name), name, example, folder)


def build_module(factory: Callable[..., Any], name: str) -> nn.Module:
    """What the factory returns, put in eval mode; HookError unless it is a module."""
    with users_code(name):
        module = factory()
    if not isinstance(module, nn.Module):
        raise HookError(f"{name}: gave a {type(module).__name__}; it must give a torch.nn.Module")
    return module.eval()


def source_of(module: nn.Module, name: str, example: Example, folder: Path, free_sizes: bool = False) -> OnnxSource:
    """A module in eval mode as a source whose digest is that of its state; `name` is what errors call it.

    `free_sizes`: pictures may have any height and width, and sounds any length, where the module allows it.
    """
    if any(tensor.is_meta for tensor in _state(module).values()):
        raise SourceError(f"{name}: the module has weights on the meta device, without numbers; load them first")
    _check_runs(module, name, example)
    try:
        exported = export_module(module, example, folder / "model.onnx", free_sizes=free_sizes)
    except SourceError as error:
        raise SourceError(f"{name}: {error}") from error
    source = OnnxSource.open(exported.path)
    notes = (f"exported from {name}", *([exported.fixed_batch] if exported.fixed_batch else []))
    return replace(source, notes=(*notes, *source.notes), made_from=module_digest(module))


def module_digest(module: nn.Module) -> str:
    """What identifies a module as a source: the digest of its state."""
    return tensors_digest(_state(module))


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {key: held for key, held in module.state_dict().items() if isinstance(held, Tensor)}


def _check_runs(module: nn.Module, name: str, example: Example) -> None:
    """SourceError unless the module can be called with the example."""
    try:
        with here_on_path(), torch.no_grad():
            module(**example) if isinstance(example, Mapping) else module(*example)
    except CANNOT_TRACE as error:
        named = example.items() if isinstance(example, Mapping) else enumerate(example)
        given = ", ".join(f"{key}: {str(held.dtype).removeprefix('torch.')} {list(held.shape)}" for key, held in named)
        raise SourceError(
            f"{name}: the module cannot be called with the example ({given}): {error}; give exactly its inputs, by "
            f"place or by the names of its parameters, without labels"
        ) from error
