"""Which rule decides about which weight."""

from __future__ import annotations

import pytest

from bitwright.numerics import Int, Spec, per_group
from bitwright.recipe.presets import OWN
from bitwright.recipe.recipe import KINDS, Recipe, Refinement, Rule, Search

LAYER = "model.layers.3.self_attn.q_proj"


@pytest.mark.parametrize(
    ("pattern", "name", "kind", "matches"),
    [
        ("*", LAYER, "linear", True),
        ("*", "model.layers.3.mlp.gate", "router", False),
        ("*", "model.embed_tokens.weight", "embedding", False),
        ("*", "lm_head.weight", "head", False),
        ("q_proj", LAYER, "linear", True),
        ("*.q_proj", LAYER, "linear", True),
        ("self_attn.*", LAYER, "linear", True),
        ("*q_proj", "eq_proj", "linear", True),
        ("q_proj", "eq_proj", "linear", False),
        ("q_proj", "model.q_proj.lora", "linear", False),
        ("Q_PROJ", LAYER, "linear", False),
        ("layers.[0-2].*", LAYER, "linear", False),
        ("layers.[3-5].*", LAYER, "linear", True),
        ("model.layers.?.*", LAYER, "linear", True),
        ("experts.down_proj.*", "model.layers.0.mlp.experts.down_proj.7", "linear", True),
        ("kind:router", "model.layers.3.mlp.gate", "router", True),
        ("kind:linear", "model.layers.3.mlp.gate", "router", False),
        ("kind:head", "lm_head.weight", "head", True),
        ("lm_head*", "lm_head.weight", "head", True),
    ],
)
def test_a_pattern_matches_names_and_kinds(pattern: str, name: str, kind: str, matches: bool) -> None:
    assert Rule(pattern).matches(name, kind) is matches


def test_the_first_rule_that_matches_decides() -> None:
    four, eight = Spec(Int(4)), Spec(Int(8))
    recipe = Recipe((Rule("*.down_proj", eight), Rule("kind:router"), Rule("*", four), Rule("*.q_proj", eight)))
    assert recipe.rule_for("a.down_proj", "linear") is recipe.rules[0]
    assert recipe.rule_for("a.q_proj", "linear") is recipe.rules[2]
    assert recipe.rule_for("a.gate", "router") is recipe.rules[1]
    assert recipe.rule_for("a.embed", "embedding") is None


def test_an_unknown_kind_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"'kind:lineal': a kind is one of linear, embedding, head, router"):
        Rule("kind:lineal")
    assert [Rule(f"kind:{kind}").matches("x", kind) for kind in KINDS] == [True] * len(KINDS)


@pytest.mark.parametrize("wrong", [{"inputs": ()}, {"stream": (-0.5, 1.0)}], ids=str)
def test_a_search_without_strengths_is_refused(wrong: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match=r"search\.(inputs|stream) lists at least one strength"):
        Search(**wrong)  # type: ignore[arg-type]


def test_a_refinement_reads_as_words() -> None:
    assert str(Refinement(2, 1)) == "refined 2+1"


def test_unsigned_numbers_without_a_zero_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rule '\*': uint4 holds no negative numbers.*zero.*signed"):
        Rule("*", Spec(Int(4, signed=False), per_group(128), scale=OWN))
