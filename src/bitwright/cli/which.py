"""Which half of the tool a command is for: language models go block by block, any other network as a whole.

Models are told apart by what they are, artifacts by what their manifest says.
"""

from __future__ import annotations

import json
from pathlib import Path

from bitwright.recipe.network import NETWORK_PRESETS
from bitwright.recipe.network_text import is_for_networks
from bitwright.recipe.presets import PRESETS
from bitwright.store.network_source import ModelKind, kind_of


def is_network(model: Path, recipe: str) -> bool:
    """Whether a model is quantized as a whole: by what it is, where a recipe of that name exists for both kinds."""
    if model.suffix.lower() == ".onnx" or (":" in str(model) and not model.exists()):
        return True
    if recipe in PRESETS and recipe in NETWORK_PRESETS and model.is_dir():
        return kind_of(str(model)) is ModelKind.FOLDER
    return recipe not in PRESETS and is_for_networks(recipe)


def is_network_artifact(folder: Path) -> bool:
    """Whether a folder holds a quantized network; a damaged manifest is left to whoever opens the folder."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("kind") == "network"


def refuse(whose: str, **given: object) -> None:
    """ValueError where an option was given that is for the other half: it would be ignored."""
    wrong = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: for {whose}; leave {'it' if len(wrong) == 1 else 'them'} out")
