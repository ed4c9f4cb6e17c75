"""Recipes by name. Each is a function, and no more than a value of the nouns: there is no code behind a preset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from bitwright.numerics import NF4, PER_ROW, Float, Float8, FloatKind, Int, Spec, per_group
from bitwright.recipe.recipe import Recipe, Rule
from bitwright.solvers import Feedback, Nearest

OWN = Spec(Float(FloatKind.CHECKPOINT))


def asymmetric(bits: int, group: int) -> Spec:
    """Unsigned integers with an integer zero of as many bits, one scale per group."""
    return Spec(Int(bits, signed=False), per_group(group), scale=OWN, zero=Spec(Int(bits, signed=False)))


def w4a16() -> Recipe:
    """4-bit weights, groups of 128, asymmetric."""
    return Recipe((Rule("*", asymmetric(4, 128)),))


def w4a16_sym() -> Recipe:
    """4-bit weights, groups of 128, symmetric over the signed full range."""
    return Recipe((Rule("*", Spec(Int(4), per_group(128), scale=OWN)),))


def w3a16() -> Recipe:
    """3-bit weights, groups of 128, asymmetric."""
    return Recipe((Rule("*", asymmetric(3, 128)),))


def w2a16() -> Recipe:
    """2-bit weights, groups of 128, asymmetric."""
    return Recipe((Rule("*", asymmetric(2, 128)),))


def w8a16() -> Recipe:
    """8-bit weights, one scale per output channel, symmetric; activations stay as they are."""
    return Recipe((Rule("*", Spec(Int(8), PER_ROW, scale=OWN)),), solver=Feedback())


def fp8() -> Recipe:
    """8-bit floating-point weights (E4M3), one scale per output channel; activations stay as they are."""
    return Recipe((Rule("*", Spec(Float8(), PER_ROW, scale=OWN)),), solver=Feedback())


def nf4() -> Recipe:
    """4-bit normal-float weights, groups of 64."""
    return Recipe((Rule("*", Spec(NF4, per_group(64), scale=OWN)),))


def nearest(recipe: Recipe) -> Recipe:
    """The same storage by rounding to nearest: the baseline, and what needs no calibration data."""
    return Recipe(recipe.rules, solver=Nearest(), search=recipe.search)


def keeping(recipe: Recipe, patterns: Sequence[str]) -> Recipe:
    """The recipe, but weights that any of these names or patterns matches stay as they are."""
    return replace(recipe, rules=(*(Rule(pattern) for pattern in patterns), *recipe.rules))


def regrouped(recipe: Recipe, columns: int) -> Recipe:
    """The same recipe with groups of so many columns; ValueError where a rule has no groups."""
    rules = []
    for rule in recipe.rules:
        tile = None if rule.weights is None else rule.weights.tile
        if rule.weights is None or tile is None or tile.cols is None:
            raise ValueError(f"rule {rule.match!r} has no groups whose size could be set")
        rules.append(replace(rule, weights=replace(rule.weights, tile=replace(tile, cols=columns))))
    return replace(recipe, rules=tuple(rules))


PRESETS: Mapping[str, Callable[[], Recipe]] = {
    function.__name__: function for function in (w8a16, w4a16, w4a16_sym, w3a16, w2a16, fp8, nf4)
}
