"""The user's sentence: which weights are stored how, and by which method the codes are found.

A recipe is a list of rules; the first rule that matches a weight decides. A pattern is matched against the weight's
name (shell wildcards, anywhere after a dot) or, as `kind:...`, against what the weight is: linear, embedding, head,
router, gate, norm, bias. What no rule mentions stays as it is.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from typing import final

from bitwright.numerics import Spec
from bitwright.solvers import Feedback, Solver

KINDS = ("linear", "embedding", "head", "router", "gate", "norm", "bias", "other")


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """Weights that match are stored as `weights` (None: kept as they are) by `solver` (None: the recipe's)."""

    match: str
    weights: Spec | None = None
    solver: Solver | None = None

    def __post_init__(self) -> None:
        if self.match.startswith("kind:") and self.match[5:] not in KINDS:
            raise ValueError(f"rule {self.match!r}: a kind is one of {', '.join(KINDS)}")
        spec = self.weights
        if spec is not None and spec.format.low >= 0 and spec.zero is None:
            raise ValueError(
                f"rule {self.match!r}: {spec.format} holds no negative numbers, so negative weights would be lost; "
                "give the spec a zero (asymmetric), or use a signed format"
            )

    def matches(self, name: str, kind: str) -> bool:
        """Whether the rule decides about this weight; `*` decides about every linear and nothing else."""
        if self.match.startswith("kind:"):
            return self.match[5:] == kind
        if self.match == "*":
            return kind == "linear"
        return fnmatch.fnmatchcase(name, self.match) or fnmatch.fnmatchcase(name, f"*.{self.match}")


@final
@dataclass(frozen=True, slots=True)
class Refinement:
    """Coordinate-descent sweeps and exact refits of the group scales, after the solver."""

    sweeps: int = 2
    refits: int = 1

    def __str__(self) -> str:
        return f"refined {self.sweeps}+{self.refits}"


@final
@dataclass(frozen=True, slots=True)
class Search:
    """What is tried for every stage of a block and kept only where the block's output on held-out rows improves.

    `inputs`, `stream`: strengths at which targets may be corrected for upstream errors (see `Strength`).
    `refinements`: what may follow the solver. `guard`: keep Nearest for every weight with which the output is better.
    """

    inputs: tuple[float, ...] = (0.0, 0.5, 1.0)
    stream: tuple[float, ...] = (0.0, 0.5, 1.0)
    refinements: tuple[Refinement, ...] = (Refinement(),)
    guard: bool = True

    def __post_init__(self) -> None:
        for name, values in (("inputs", self.inputs), ("stream", self.stream)):
            if not values or min(values) < 0:
                raise ValueError(f"search.{name} lists at least one strength, none below 0; found {list(values)}")


@final
@dataclass(frozen=True, slots=True)
class Recipe:
    """Rules, the solver of those rules that name none, and the search around it."""

    rules: tuple[Rule, ...]
    solver: Solver = field(default_factory=Feedback)
    search: Search = field(default_factory=Search)

    def rule_for(self, name: str, kind: str) -> Rule | None:
        """The first rule that matches, or None."""
        return next((rule for rule in self.rules if rule.matches(name, kind)), None)
