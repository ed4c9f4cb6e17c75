"""A model without its weights: every parameter on the meta device, every buffer real.

Parameters on meta have shape and dtype but no memory, so a model of any size is built in seconds. Buffers (such as the
rotary frequencies) are computed by the model's own constructor and are small, so they stay real and correct: building
the whole model under ``torch.device("meta")`` would lose them. The swap happens as each parameter is registered.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from bitwright.store.hf_config import LIBRARY_ERRORS, auto_class, transformers_library
from bitwright.store.source_error import SourceError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Ties = Mapping[str, str]


def build_skeleton(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The language model of ``config`` in eval mode, nothing tied yet. Raises SourceError if it has none."""
    auto = auto_class(config)
    if auto is None:
        raise SourceError(
            f"config.json: transformers {transformers_library().__version__} has no model of type "
            f"{config.model_type!r} that continues a text. Check the file, or give a language model."
        )
    from transformers.initialization import no_init_weights

    config = deepcopy(config)
    config._attn_implementation = None  # transformers then takes sdpa where the model supports it, else eager
    for part in (config, config.get_text_config()):
        part.use_cache = False
        part._experts_implementation = "eager"  # one product per expert, which tracing and calibration can see
    try:
        with parameters_on_meta(), no_init_weights(), HugeOnMeta():
            model: PreTrainedModel = auto.from_config(config, dtype=dtype, trust_remote_code=False)
    except LIBRARY_ERRORS as error:
        raise SourceError(
            f"config.json: no language model can be built from it ({error}). Check its model_type and sizes."
        ) from error
    _keep_in_float32(model, dtype)
    model.eval()
    return model


_FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})
_HUGE = 1 << 28  # elements; no buffer is that large, but the fused experts of one layer may be


class HugeOnMeta(TorchFunctionMode):
    """Within it, huge tensors are made on meta at once, so that no memory is filled only to be given back."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _FACTORIES and kwargs.get("device") is None:
            sizes = args[0] if args and isinstance(args[0], tuple | list) else args
            if all(isinstance(size, int) for size in sizes) and math.prod(sizes) > _HUGE:
                kwargs["device"] = "meta"
        return func(*args, **kwargs)


def tie(model: nn.Module, ties: Ties) -> None:
    """Makes each alias in ``ties`` the same Parameter as the name it is tied to. Changes ``model``."""
    for alias, stored in ties.items():
        owner, _, leaf = alias.rpartition(".")
        model.get_submodule(owner).register_parameter(leaf, model.get_parameter(stored))


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Within it, a parameter that this thread registers on any module becomes a meta parameter of the same class."""
    thread = threading.get_ident()

    def to_meta(_module: nn.Module, _name: str, parameter: nn.Parameter) -> Any:  # the hook's stub forgets its result
        if parameter.is_meta or threading.get_ident() != thread:  # a shared parameter must stay one object
            return None
        kind = type(parameter)
        moved = kind(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        moved.__dict__.update(parameter.__dict__)
        return moved

    handle = register_module_parameter_registration_hook(to_meta)
    try:
        yield
    finally:
        handle.remove()


def _keep_in_float32(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Gives the tensors that the loader keeps in float32 (a router's bias, say) that dtype."""
    from transformers.core_model_loading import build_glob_alternation

    plan = model._get_dtype_plan(dtype)
    if not plan:
        return
    pattern, group_to_key, _ = build_glob_alternation(list(plan))
    stored = model.state_dict(keep_vars=True)
    for name, tensor in stored.items():
        match = pattern.search(name)
        if match is not None and match.lastgroup is not None:
            tensor.data = tensor.data.to(plan[group_to_key[match.lastgroup]])
