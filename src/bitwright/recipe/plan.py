"""What will be done, decided before any weight is read.

The recipe meets the graph here, and ends here: every weight gets a step or a reason why it stays. Inside a block the
steps are ordered in stages: a weight belongs to the first stage in which everything upstream of it has been rounded.
A plan holds no tensors; it can be printed, costed (`cost.py`) and hashed, and whatever cannot work is refused now.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from bitwright.graph import Block, Graph, Linear, WeightView
from bitwright.numerics import Spec
from bitwright.recipe.recipe import Recipe, Rule, Search
from bitwright.solvers import Solver


class PlanError(ValueError):
    """The recipe cannot be carried out on this model; the message names the weight and the remedy."""


@dataclass(frozen=True, slots=True)
class Step:
    """One weight: how it is stored and by which solver."""

    linear: Linear
    spec: Spec
    solver: Solver

    @property
    def name(self) -> str:
        """The weight's name."""
        return self.linear.view.name


@dataclass(frozen=True, slots=True)
class Stage:
    """Weights that can be rounded at the same time: none of them reads what another one writes."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class BlockJob:
    """One block: its stages in the order data flows."""

    index: int
    block: Block
    stages: tuple[Stage, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps of all stages."""
        return tuple(step for stage in self.stages for step in stage.steps)


@dataclass(frozen=True, slots=True)
class Kept:
    """A parameter that stays as it is, and why."""

    name: str
    kind: str
    shape: tuple[int, ...]
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Table:
    """A matrix outside the blocks (embedding, head) that the recipe names: rounded without calibration data."""

    view: WeightView
    kind: str
    spec: Spec


@dataclass(frozen=True, slots=True)
class Plan:
    """Blocks with their steps, tables outside them, everything that is kept, and what deserves a warning."""

    graph: Graph
    recipe: Recipe
    blocks: tuple[BlockJob, ...]
    tables: tuple[Table, ...]
    kept: tuple[Kept, ...]
    warnings: tuple[str, ...]

    @property
    def search(self) -> Search:
        """What is tried and kept if better."""
        return self.recipe.search

    def views(self) -> Iterator[tuple[WeightView, Spec]]:
        """Every weight that will be quantized, and its storage."""
        for job in self.blocks:
            for step in job.steps:
                yield step.linear.view, step.spec
        for table in self.tables:
            yield table.view, table.spec

    def specs(self) -> Iterator[tuple[str, tuple[int, int], Spec]]:
        """Name, shape and storage of every weight that will be quantized."""
        for view, spec in self.views():
            yield view.name, view.shape, spec

    @property
    def needs_data(self) -> bool:
        """Whether any step's solver wants calibration data."""
        return any(step.solver.needs_gram for job in self.blocks for step in job.steps)


@dataclass(frozen=True, slots=True)
class Stored:
    """Shape and type of one parameter in the source."""

    shape: tuple[int, ...]
    dtype: torch.dtype


_KEPT_BY_DEFAULT = {
    "router": "a router decides which experts run; kept unless a rule names it",
    "gate": "a gate is one number for every token, and engines keep it in float; kept unless a rule names it",
}


def make_plan(
    graph: Graph, recipe: Recipe, parameters: Mapping[str, Stored], dtype: torch.dtype, tied: Mapping[str, str]
) -> Plan:
    """The plan; raises PlanError where the recipe cannot work or matches nothing.

    `parameters`: what the source stores, by model name. `tied`: alias -> stored name.
    """
    planner = _Planner(recipe, parameters, dtype, tied)
    blocks = tuple(planner.block(index, block) for index, block in enumerate(graph.blocks))
    tables = planner.tables(graph)
    planner.check_fits()
    if not tables and not any(job.stages for job in blocks):
        raise PlanError("no rule of the recipe matches any weight: patterns are names with wildcards, or kind:...")
    planner.keep_rest(graph)
    planner.check_used()
    return Plan(graph, recipe, blocks, tables, tuple(planner.kept), tuple(planner.warnings))


class _Planner:
    def __init__(
        self, recipe: Recipe, parameters: Mapping[str, Stored], dtype: torch.dtype, tied: Mapping[str, str]
    ) -> None:
        self.recipe, self.parameters, self.dtype, self.tied = recipe, parameters, dtype, tied
        self.kept: list[Kept] = []
        self.warnings: list[str] = []
        self.planned: set[str] = set()  # parameters of which at least one view is quantized
        self.reasons: dict[str, tuple[str, str]] = {}  # parameter -> kind, reason
        self.used: set[Rule] = set()
        self.misfits: dict[str, str] = {}  # weight -> why its rule's spec cannot hold it

    def block(self, index: int, block: Block) -> BlockJob:
        """The job of one block; linears that no rule wants are noted as kept."""
        steps: list[Step] = []
        for linear in block.linears:
            view = linear.view
            spec, rule = self._spec(view, linear.kind)
            if spec is None:
                why = _KEPT_BY_DEFAULT.get(linear.kind) if rule is None else None
                self.reasons[view.parameter] = (linear.kind, why or self._why(rule))
                continue
            if view.parameter in self.tied.values() and view.parameter not in self.planned:
                self.warnings.append(f"{view.name} is shared with another weight; both take the quantized values")
            self.planned.add(view.parameter)
            assert rule is not None
            steps.append(Step(linear, spec, rule.solver or self.recipe.solver))
        whole = self._whole(steps, block)
        return BlockJob(index, block, _stages(whole, block.linears))

    def _spec(self, view: WeightView, kind: str) -> tuple[Spec | None, Rule | None]:
        rule = self.recipe.rule_for(view.name, kind)
        if rule is None:
            return None, None
        self.used.add(rule)
        if rule.weights is None:
            return None, rule
        spec = rule.weights.resolve(self.dtype)
        try:
            spec.bits(view.shape)
        except ValueError as error:
            shape = f"[{view.shape[0]}, {view.shape[1]}]"
            remedy = "presets take a group size as a suffix, such as w4a16_g32"
            self.misfits[view.name] = f"{view.name} {shape}: {error}; {remedy}"
        return spec, rule

    def check_fits(self) -> None:
        """PlanError for weights that their specs cannot hold: the first in full, and how to keep all if not all are."""
        if self.misfits:
            patterns = dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in self.misfits)
            keep = " ".join(f"--keep '{pattern}'" for pattern in patterns)
            count = len(self.misfits)
            others = f". To keep all {count} that do not fit: {keep}" if 1 < count < len(self.planned) else ""
            raise PlanError(f"{next(iter(self.misfits.values()))}{others}")

    def _whole(self, steps: list[Step], block: Block) -> list[Step]:
        """All slices of a fused parameter are quantized, or none: half a tensor cannot be stored."""
        counts: dict[str, int] = {}
        for step in steps:
            counts[step.linear.view.parameter] = counts.get(step.linear.view.parameter, 0) + 1
        for linear in block.linears:
            view = linear.view
            stored = self.parameters[view.parameter].shape
            if 0 < counts.get(view.parameter, 0) < (stored[0] if len(stored) == 3 else 1):
                raise PlanError(f"{view.parameter}: rules cover only some of its {stored[0]} slices; cover all or none")
        return steps

    def _why(self, rule: Rule | None) -> str:
        return "no rule of the recipe matches it" if rule is None else f"the recipe keeps it ({rule.match!r})"

    def tables(self, graph: Graph) -> tuple[Table, ...]:
        """Matrices outside the blocks that a rule names."""
        found: list[Table] = []
        for one in graph.outside:
            stored = self.parameters.get(one.parameter)
            if stored is None or len(stored.shape) != 2:
                continue
            view = WeightView(one.parameter, (stored.shape[0], stored.shape[1]))
            spec, rule = self._spec(view, one.kind)
            if spec is not None:
                found.append(Table(view, one.kind, spec))
                self.planned.add(one.parameter)
                if one.parameter in self.tied.values():
                    self.warnings.append(f"{one.parameter} is shared (tied); all its uses take the quantized values")
            else:
                why = "no text reaches it" if one.kind == "other" else "rounding it costs accuracy at every token"
                default = f"kept by default: {why}"
                reason = default if rule is None else self._why(rule)
                self.reasons[one.parameter] = (one.kind, reason)
        return tuple(found)

    def keep_rest(self, graph: Graph) -> None:
        """Put every stored parameter that no step covers in the ledger."""
        kinds = {one.parameter: one.kind for one in graph.outside}
        for name, stored in self.parameters.items():
            if name in self.planned:
                continue
            flat = len(stored.shape) < 2
            default = kinds.get(name) or (("bias" if name.endswith("bias") else "norm") if flat else "other")
            reason = "a vector, not a matrix" if flat else "no product with the whole matrix was seen in the trace"
            kind, why = self.reasons.get(name, (default, reason))
            size = torch.Size(stored.shape).numel() * stored.dtype.itemsize
            self.kept.append(Kept(name, kind, stored.shape, size, why))

    def check_used(self) -> None:
        """A rule that decided nothing is probably misspelt."""
        for rule in self.recipe.rules:
            if rule not in self.used:
                self.warnings.append(f"rule {rule.match!r} matches no weight that an earlier rule has not decided")


def _stages(steps: list[Step], linears: tuple[Linear, ...]) -> tuple[Stage, ...]:
    """Group steps by depth: one more than the deepest planned weight upstream. Kept weights are passed through."""
    planned = {step.name for step in steps}
    level: dict[str, int] = {}
    for linear in linears:
        above = max((level.get(name, 0) for name in linear.after), default=0)
        level[linear.view.name] = above + (linear.view.name in planned)
    depths = sorted({level[step.name] for step in steps})
    return tuple(Stage(tuple(step for step in steps if level[step.name] == depth)) for depth in depths)
