"""Recipes: TOML there and back, strict reading, first match wins."""

from __future__ import annotations

import pytest

from bitwright.numerics import Int, Spec, per_group
from bitwright.numerics.plain import PlainError
from bitwright.recipe.presets import PRESETS, nearest
from bitwright.recipe.recipe import Recipe, Rule, Search
from bitwright.recipe.text import find_recipe, read_recipe, write_recipe
from bitwright.solvers import Feedback, Groups, Order

INT4 = Spec(Int(4), per_group(64))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_toml(name: str) -> None:
    recipe = find_recipe(name)
    assert read_recipe(write_recipe(recipe)) == recipe
    assert read_recipe(write_recipe(nearest(recipe))) == nearest(recipe)


def test_a_recipe_with_every_kind_of_choice_survives_toml() -> None:
    solver = Feedback(damp=0.05, order=Order.NATURAL, groups=Groups.DYNAMIC, sweeps=3)
    recipe = Recipe(
        (Rule("*.v_proj", INT4, solver), Rule("kind:head", None)), search=Search(stream=(0.0,), guard=False)
    )
    assert read_recipe(write_recipe(recipe)) == recipe


def test_the_first_rule_that_matches_decides() -> None:
    recipe = Recipe((Rule("*.0.*.v_proj", None), Rule("v_proj", INT4), Rule("*", Spec(Int(8), per_group(32)))))
    first = recipe.rule_for("model.layers.0.self_attn.v_proj", "linear")
    assert first is recipe.rules[0]
    assert recipe.rule_for("model.layers.1.self_attn.v_proj", "linear") is recipe.rules[1]
    assert recipe.rule_for("model.layers.1.mlp.up_proj", "linear") is recipe.rules[2]


def test_a_star_means_linears_only() -> None:
    recipe = Recipe((Rule("*", INT4),))
    assert recipe.rule_for("lm_head", "head") is None and recipe.rule_for("x.gate", "router") is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('[[rules]]\nmatch = "*"\nweight = 4', "'weight'"),
        ('[[rules]]\nmatch = "*"\nweights = { type = "Spec", format = { type = "Int", width = 9 } }', "1 to 8"),
        ('[[rules]]\nmatch = "*"\nweights = { type = "Spec", format = { type = "Flot" } }', "Float8"),
        ('solver = { type = "Feedback", order = "upwards" }\nrules = []', "natural"),
        ('solver = { type = "Feedback", damp = "much" }\nrules = []', "float"),
        ('solver = { type = "Feedback", groups = "dynamic" }\nrules = []', "natural order"),
        ('[[rules]]\nmatch = "kind:knee"', "kind is one of"),
        ("rules = [", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(text: str, word: str) -> None:
    with pytest.raises(PlainError, match=word):
        read_recipe(text)


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(PlainError, match="w2a16"):
        find_recipe("w1")
