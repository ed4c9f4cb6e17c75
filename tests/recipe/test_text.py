"""Recipes as TOML: what is written reads back the same; what is wrong is named with its place and what is allowed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bitwright.numerics import (
    E2M1,
    NF4,
    PER_TENSOR,
    Float,
    Float8,
    FloatKind,
    Int,
    MinMax,
    MseGrid,
    Spec,
    per_group,
)
from bitwright.numerics.plain import PlainError
from bitwright.recipe.presets import PRESETS, nearest
from bitwright.recipe.recipe import Recipe, Refinement, Rule, Search
from bitwright.recipe.text import find_recipe, read_recipe, write_recipe
from bitwright.solvers import Feedback, Groups, Importance, Nearest, Order
from conformance.fitters import FITTERS
from conformance.solvers import SOLVERS
from conformance.specs import SPECS

BY_HAND = """
[solver]
type = "Feedback"
fitter = { type = "MseGrid", steps = 40 }
order = "natural"
groups = "dynamic"
damp = 1

[search]
inputs = [0, 0.5]
guard = false
refinements = [{ sweeps = 3 }]

[[rules]]
match = "kind:head"  # stays as it is

[[rules]]
match = "*.down_proj"
solver = { type = "Nearest" }
[rules.weights]
format = { type = "E2M1" }
tile = { rows = 1, cols = 16 }
scale = { format = { type = "Float8", kind = "e4m3fn" }, tile = {} }

[[rules]]
match = "*"
[rules.weights]
format = { type = "Int", width = 4, signed = false }
tile = { rows = 1, cols = 128 }
scale = { format = { type = "Float", kind = "checkpoint" } }
zero = { format = { type = "Int", width = 4, signed = false } }
"""


def test_a_recipe_written_by_hand_is_read() -> None:
    own = Spec(Float(FloatKind.CHECKPOINT))
    asymmetric = Spec(Int(4, signed=False), per_group(128), scale=own, zero=Spec(Int(4, signed=False)))
    solver = Feedback(MseGrid(steps=40), damp=1.0, order=Order.NATURAL, groups=Groups.DYNAMIC)
    assert read_recipe(BY_HAND) == Recipe(
        (
            Rule("kind:head"),
            Rule("*.down_proj", Spec(E2M1(), per_group(16), scale=Spec(Float8(), PER_TENSOR)), Nearest()),
            Rule("*", asymmetric),
        ),
        solver,
        Search(inputs=(0.0, 0.5), refinements=(Refinement(3),), guard=False),
    )


RECIPES = {
    **{name: make() for name, make in PRESETS.items()},
    **{f"nearest {name}": nearest(make()) for name, make in PRESETS.items()},
    "by hand": read_recipe(BY_HAND),
    "every spec": Recipe(tuple(Rule(name, spec) for name, spec in SPECS.items())),
    "every solver": Recipe(tuple(Rule(name, Spec(NF4), solver) for name, solver in SOLVERS.items())),
    "every fitter": Recipe(tuple(Rule(name, Spec(NF4), Nearest(fitter)) for name, fitter in FITTERS.items())),
    "settings": Recipe((Rule("*"),), Feedback(MinMax(), 1e-5, importance=Importance.NONE, sweeps=3, refits=2, block=7)),
    "strange names": Recipe((Rule('a "quoted" \\ name\n\t\u00fc \U0001f600 \u2028 end'),)),
    "no rules": Recipe(()),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_what_was_written_reads_back_the_same(recipe: Recipe) -> None:
    text = write_recipe(recipe)
    assert read_recipe(text) == recipe
    assert write_recipe(read_recipe(text)) == text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("solvr = 1", r"recipe: Recipe has no field 'solvr'; its fields are \['rules', 'solver', 'search'\]"),
        ("solver = { type = 'Gptq' }", r"recipe\.solver: type must be one of \['Feedback', 'Nearest'\], found 'Gptq'"),
        ("solver = { type = 'Solver' }", r"recipe\.solver: type must be one of"),
        ("solver = { damp = 0.1 }", r"recipe\.solver: type must be one of"),
        (
            "solver = { type = 'Feedback', dmp = 1 }",
            r"recipe\.solver: Feedback has no field 'dmp'; its fields are .*'damp'",
        ),
        ("solver = { type = 'Feedback', damp = '1' }", r"recipe\.solver\.damp: expected float, found '1'"),
        ("solver = { type = 'Feedback', block = 1.5 }", r"recipe\.solver\.block: expected int, found 1\.5"),
        (
            "solver = { type = 'Feedback', order = 'up' }",
            r"recipe\.solver\.order: expected one of \['natural', 'activation'\]",
        ),
        (
            "solver = { type = 'Feedback', groups = 'dynamic' }",
            r"recipe\.solver: dynamic groups need the natural order",
        ),
        ("solver = { type = 'Feedback', damp = -1 }", r"recipe\.solver: damp and block are positive"),
        ("search = { inputs = 1 }", r"recipe\.search\.inputs: expected a list, found 1"),
        ("search = { inputs = [] }", r"recipe\.search: search\.inputs lists at least one"),
        ("rules = 3", r"recipe\.rules: expected a list"),
        ("rules = [{ weights = { format = { type = 'NF4' } } }]", r"rules\[0\]\.weights\.format: type must be one of"),
        ("rules = [{ match = 'kind:heads' }]", r"recipe\.rules\[0\]: rule 'kind:heads': a kind is one of"),
        ("rules = [{ match = 4 }]", r"recipe\.rules\[0\]\.match: expected str, found 4"),
        ("rules = [{ weights = { format = { type = 'E2M1' } } }]", r"recipe\.rules\[0\]: .*match"),
        ("rules = [", "not valid TOML"),
        (
            "rules = [{ match = '*', weights = { format = { type = 'Int', width = 9 } } }]",
            r"recipe\.rules\[0\]\.weights\.format: an integer format has 1 to 8 bits; found 9",
        ),
        (
            "rules = [{ match = '*', weights = { format = { type = 'E2M1' }, zero = { format = {type = 'E2M1'} } } }]",
            r"recipe\.rules\[0\]\.weights: a spec without a tile",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(line: str, message: str) -> None:
    text = line if line.startswith("rules") else f"{line}\n[[rules]]\nmatch = '*'\n"
    with pytest.raises(PlainError, match=message):
        read_recipe(text)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_found_by_name(name: str) -> None:
    assert find_recipe(name) == PRESETS[name]()


def test_a_suffix_sets_the_size_of_groups() -> None:
    (rule,) = find_recipe("w4a16_sym_g32").rules
    (usual,) = PRESETS["w4a16_sym"]().rules
    assert rule.weights is not None and usual.weights is not None
    assert rule.weights == replace(usual.weights, tile=per_group(32))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("w8a16_g32", r"recipe 'w8a16_g32': rule '\*' has no groups"),
        ("w4a16_g0", r"recipe 'w4a16_g0': a tile has at least one row"),
        ("w5a16_g32", r"no preset is called 'w5a16_g32'"),
    ],
)
def test_what_has_no_groups_takes_no_size_of_groups(name: str, message: str) -> None:
    with pytest.raises(PlainError, match=message):
        find_recipe(name)


def test_files_are_found_by_path(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(BY_HAND, encoding="utf-8")
    (tmp_path / "mine").write_text(BY_HAND, encoding="utf-8")
    assert find_recipe(str(tmp_path / "mine.toml")) == find_recipe(str(tmp_path / "mine")) == read_recipe(BY_HAND)


def test_unknown_presets_and_missing_files_are_named() -> None:
    with pytest.raises(
        PlainError, match=r"no preset is called 'w5a16'; presets are w8a16, w4a16, .* or give a \.toml file"
    ):
        find_recipe("w5a16")
    with pytest.raises(PlainError, match=r"recipe file nowhere\.toml does not exist"):
        find_recipe("nowhere.toml")
