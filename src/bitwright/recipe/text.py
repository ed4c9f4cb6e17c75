"""Recipes as TOML: read strictly, written so that reading gives the same recipe back."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from bitwright import numerics, solvers
from bitwright.numerics.plain import Plain, PlainError, from_plain, to_plain
from bitwright.recipe.presets import PRESETS, regrouped
from bitwright.recipe.recipe import Recipe, Refinement, Rule, Search

CLASSES: dict[str, type] = {cls.__name__: cls for cls in (Recipe, Rule, Search, Refinement)}
for _module in (numerics, solvers):
    CLASSES |= {name: vars(_module)[name] for name in _module.__all__ if isinstance(vars(_module)[name], type)}


def read_recipe(text: str) -> Recipe:
    """The recipe that a TOML text describes; PlainError names the field that is wrong and what is allowed."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlainError(f"the recipe is not valid TOML: {error}") from error
    recipe = from_plain(data, Recipe, CLASSES)
    assert isinstance(recipe, Recipe)
    return recipe


def find_recipe(name: str) -> Recipe:
    """A preset by name (`w4a16_g32`: with groups of 32), or the recipe in a TOML file."""
    if name in PRESETS:
        return PRESETS[name]()
    grouped = re.fullmatch(r"(\w+)_g(\d+)", name)
    if grouped and grouped[1] in PRESETS:
        try:
            return regrouped(PRESETS[grouped[1]](), int(grouped[2]))
        except ValueError as error:
            raise PlainError(f"recipe {name!r}: {error}") from error
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise PlainError(f"recipe file {name} does not exist")
        return read_recipe(path.read_text(encoding="utf-8"))
    raise PlainError(
        f"no preset is called {name!r}; presets are {', '.join(PRESETS)} (NAME_g32: groups of 32), or give a .toml file"
    )


def write_recipe(recipe: Recipe) -> str:
    """The recipe as TOML."""
    data = to_plain(recipe)
    rules = data.pop("rules")
    lines = [f"{key} = {_inline(value)}" for key, value in data.items() if key != "type"]
    lines += [] if rules else ["rules = []"]
    for rule in rules:
        lines += ["", "[[rules]]"] + [f"{key} = {_inline(value)}" for key, value in rule.items() if key != "type"]
    return "\n".join(lines) + "\n"


def _inline(value: Plain) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)  # strings, booleans and finite numbers are written alike in both
