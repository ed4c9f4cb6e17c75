"""The quantization_config entry of config.json: which modules are stored how, and which are left alone.

Where all weights are stored alike there is one group that targets every Linear module; what was kept is on the ignore
list. Where they differ, each group lists its modules by name. Software that builds the model itself matches these
against the model's names, software with classes of its own against the checkpoint's; where the two differ, both stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from bitwright.export.schemes import Scheme
from bitwright.store.source import Source

VERSION = "0.20.0"  # of compressed-tensors: the layout written here is the one that this version writes


def linears(layout: Source) -> frozenset[str]:
    """Names of all Linear modules of the model."""
    return frozenset(name for name, module in layout.skeleton().named_modules() if isinstance(module, nn.Linear))


def quantization_config(layout: Source, schemes: Mapping[str, Scheme]) -> dict[str, Any]:
    """The entry for a model in which `schemes` gives for each quantized module how it is stored."""
    distinct = sorted(set(schemes.values()), key=repr)
    members = {scheme: [name for name in schemes if schemes[name] == scheme] for scheme in distinct}
    formats = {scheme.format for scheme in distinct}
    return {
        "quant_method": "compressed-tensors",
        "version": VERSION,
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": _both_names(layout, sorted(linears(layout) - schemes.keys())),
        "config_groups": {
            f"group_{number}": _group(
                scheme, ["Linear"] if len(distinct) == 1 else _both_names(layout, members[scheme])
            )
            for number, scheme in enumerate(distinct)
        },
    }


def _group(scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    return {
        "targets": targets,
        "weights": dict(scheme.weights()),
        "input_activations": None,
        "output_activations": None,
        "format": scheme.format,
    }


def _both_names(layout: Source, modules: Iterable[str]) -> list[str]:
    """Each module by its name in the model and, if it is another one, by its name in the checkpoint."""
    found: dict[str, None] = {}
    for module in modules:
        names = (module, *_stored_names(layout, f"{module}.weight"))
        found |= dict.fromkeys(names)
    return list(found)


def _stored_names(layout: Source, parameter: str) -> list[str]:
    if parameter in layout.tied():  # the head of a tied model is no tensor of the checkpoint
        return []
    stored = layout.renamed(parameter) if parameter in layout.parameters() else None
    return [stored.removesuffix(".weight")] if stored else []
