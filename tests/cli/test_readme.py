"""The README is right: its commands parse, its recipe plans, its table of presets is whole, its Python names exist."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

import bitwright
from bitwright import networks
from bitwright.cli.app import app
from bitwright.quantize import plan_source
from bitwright.recipe.network import NETWORK_PRESETS
from bitwright.recipe.presets import PRESETS
from bitwright.recipe.text import read_recipe
from bitwright.store.source import open_source

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks in this language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for text in blocks("sh") for line in text.splitlines() if line.startswith("bitwright ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_parses(line: str) -> None:
    _, verb, *arguments = shlex.split(line.replace("$M", "examples/bookllama"), comments=True)
    group = typer.main.get_command(app)
    context = group.make_context("bitwright", [verb, *arguments])
    command = group.get_command(context, verb)  # type: ignore[attr-defined]
    command.make_context(verb, arguments)


def test_every_verb_has_an_example() -> None:
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert verbs == {line.split()[1] for line in COMMANDS}


def test_the_recipe_plans_on_the_example(bookllama: Path) -> None:
    (text,) = blocks("toml")
    source = open_source(bookllama)
    for recipe in (read_recipe(text), read_recipe('solver = { type = "Nearest" }\n\n' + text)):
        plan = plan_source(source, recipe)
        assert {str(spec.format) for _, _, spec in plan.specs()} == {"uint4", "int3"}
        assert not plan.warnings


def test_the_tables_list_every_preset() -> None:
    rows = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == PRESETS.keys() | NETWORK_PRESETS.keys()


def test_the_python_examples_use_public_names() -> None:
    texts = blocks("python")
    assert len(texts) == 2
    for node in (node for text in texts for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.ImportFrom) and node.module == "bitwright":
            assert {alias.name for alias in node.names} <= {*bitwright.__all__, "networks"}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "networks":
            assert node.attr in networks.__all__


def test_public_names_are_few_and_each_once() -> None:
    assert len(bitwright.__all__) == len(set(bitwright.__all__)) <= 32
    assert all(name in vars(bitwright) for name in bitwright.__all__)
