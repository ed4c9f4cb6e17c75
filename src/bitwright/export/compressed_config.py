"""The quantization_config entry of config.json: which modules are stored how, and which are left alone.

Where all weights are stored alike there is one group that targets every Linear module; what was kept is on the ignore
list. Where they differ, each group lists its modules by name. Software that builds the model itself matches these
against the model's names, software with classes of its own against the checkpoint's; where the two differ, both stand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from bitwright.export.schemes import Scheme
from bitwright.store.source import Source

VERSION = "0.20.0"  # of compressed-tensors: the layout written here is the one that this version writes


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """A module of the checkpoint that holds quantized numbers.

    `model`: its name in the model; None for an expert, which the model holds in one tensor with others.
    """

    module: str
    model: str | None
    scheme: Scheme


def linears(layout: Source) -> frozenset[str]:
    """Names of all Linear modules of the model."""
    return frozenset(name for name, module in layout.skeleton().named_modules() if isinstance(module, nn.Linear))


def quantization_config(layout: Source, stored: Sequence[Stored]) -> dict[str, Any]:
    """The entry for a model of which these modules are quantized."""
    distinct = sorted({one.scheme for one in stored}, key=repr)
    members = {scheme: [one for one in stored if one.scheme == scheme] for scheme in distinct}
    formats = {scheme.format for scheme in distinct}
    left = _matrices(layout) - {one.model for one in stored}
    return {
        "quant_method": "compressed-tensors",
        "version": VERSION,
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": list(dict.fromkeys(name for model in sorted(left) for name in _both_names(layout, model))),
        "config_groups": {
            f"group_{number}": _group(scheme, ["Linear"] if len(distinct) == 1 else _targets(members[scheme]))
            for number, scheme in enumerate(distinct)
        },
    }


def _matrices(layout: Source) -> set[str]:
    """Modules that some software takes for Linear: those that are, and others with a matrix for a weight (routers)."""
    skeleton = layout.skeleton()
    embeddings = {name for name, module in skeleton.named_modules() if isinstance(module, nn.Embedding)}
    matrices = {name for name, tensor in skeleton.named_parameters(remove_duplicate=False) if tensor.dim() == 2}
    return {name.removesuffix(".weight") for name in matrices if name.endswith(".weight")} - embeddings


def _group(scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    return {
        "targets": targets,
        "weights": dict(scheme.weights()),
        "input_activations": None,
        "output_activations": None,
        "format": scheme.format,
    }


def _targets(members: Sequence[Stored]) -> list[str]:
    """How a group names its modules; experts by a pattern, because readers that stack them look for one."""
    found: dict[str, None] = {}
    for one in members:
        pattern = "re:" + re.sub(r"\d+", r"\\d+", re.escape(one.module)) + "$"
        found |= dict.fromkeys([pattern] if one.model is None else [one.model, one.module])
    return list(found)


def _both_names(layout: Source, module: str) -> list[str]:
    """A module by its name in the model and, if it is another one, by its name in the checkpoint."""
    parameter = f"{module}.weight"
    if parameter in layout.tied():  # the head of a tied model is no tensor of the checkpoint
        return [module]
    stored = layout.renamed(parameter) if parameter in layout.parameters() else None
    return list(dict.fromkeys([module, *([stored.removesuffix(".weight")] if stored else [])]))
