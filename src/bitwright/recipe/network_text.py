"""Recipes for whole networks as the user writes them: a preset's name, or TOML that starts from a preset.

    preset = "int8"
    target = "openvino"
    ranges = ["MinMaxRange", { type = "Percentile", percent = 99.99 }]
    keep = ["/classifier/Gemm"]

Every other field is one of `NetworkRecipe`. A class that needs no fields may be written as its name alone, and `learn =
false`, `relief = false`, `smooth = []` switch off what the preset asks for.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bitwright import calib, numerics, solvers
from bitwright.graph.network import Network
from bitwright.numerics.machine import Machine, this_machine
from bitwright.numerics.plain import PlainError, from_plain, to_plain
from bitwright.recipe.network import NETWORK_PRESETS, NetworkPlanError, NetworkRecipe, find_network_recipe
from bitwright.recipe.targets import find_target, suited

CLASSES: dict[str, type] = {"NetworkRecipe": NetworkRecipe}
for _module in (calib, numerics, solvers):
    CLASSES |= {name: vars(_module)[name] for name in _module.__all__ if isinstance(vars(_module)[name], type)}


def default_target(machine: Machine) -> str:
    """The name of the target that a machine is itself."""
    return "arm" if machine.is_arm else suited("x86-vnni", machine)


def is_for_networks(name: str) -> bool:
    """Whether a recipe is one for whole networks: a preset's name, or a TOML file that starts from a preset."""
    path = Path(name)
    if name in NETWORK_PRESETS or path.suffix.lower() != ".toml" or not path.is_file():
        return name in NETWORK_PRESETS
    try:
        return "preset" in tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False  # whoever reads it says what is wrong


def load_network_recipe(
    name: str, target: str | None = None, keep: Sequence[str] = (), min_sqnr: float | None = None
) -> NetworkRecipe:
    """The recipe that a preset's name or a TOML file stands for; ValueError says what is wrong and what is allowed.

    `target` goes before the file's; None: the file's, else this machine's. `keep` is added to the file's, `min_sqnr`
    goes before it.
    """
    path = Path(name)
    if path.suffix.lower() == ".toml":
        if not path.is_file():
            raise PlainError(f"recipe file {name} does not exist")
        try:
            recipe = read_network_recipe(path.read_text(encoding="utf-8"), target)
        except ValueError as error:
            raise PlainError(f"{name}: {error}") from error
    else:
        recipe = find_network_recipe(name, find_target(target or default_target(this_machine())).name)
    asked = recipe.min_sqnr if min_sqnr is None else min_sqnr
    return replace(recipe, keep=tuple(dict.fromkeys((*recipe.keep, *keep))), min_sqnr=asked)


def read_network_recipe(text: str, target: str | None = None) -> NetworkRecipe:
    """The recipe that a TOML text describes; PlainError names the field that is wrong and what is allowed."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlainError(f"the recipe is not valid TOML: {error}") from error
    preset = data.pop("preset", None)
    if preset is None:
        raise PlainError(f'a recipe for networks starts from a preset: preset = "{next(iter(NETWORK_PRESETS))}"')
    given = data.pop("target", None)
    chosen = target or given or default_target(this_machine())
    find_target(chosen)
    start: dict[str, Any] = to_plain(find_network_recipe(preset, chosen))
    recipe = from_plain(start | data, NetworkRecipe, CLASSES)
    assert isinstance(recipe, NetworkRecipe)
    return recipe


def check_keep(network: Network, keep: Iterable[str]) -> None:
    """NetworkPlanError for a name that no node has, with names that are like it."""
    known = [node.name for node in network.nodes]
    for name in keep:
        if name not in known:
            like = get_close_matches(name, known, n=3, cutoff=0.5) or known[:3]
            raise NetworkPlanError(
                f"{name}: asked to stay float, but the network has no node of this name (it has {len(known)}, such as "
                f"{', '.join(like)}); `bitwright plan` lists all of them"
            )
