"""Quantizes one stage of a block: sums, targets, solver, refinement, guard.

Order of decisions, each on held-out rows of the block's output: how strongly the targets make up for upstream errors
(judged on the targets before rounding, which needs no solver); then the codes; then whether refinements are kept; at
last, weight by weight, whether rounding to nearest would have been better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitwright.engine.choose import HeldOut, put_weights
from bitwright.engine.collect import InputStats, Pair, Pass, by_input, collect, passes
from bitwright.graph import WeightView
from bitwright.numerics import QTensor
from bitwright.recipe.plan import Stage, Step
from bitwright.recipe.recipe import Refinement, Search
from bitwright.solvers import (
    Corrections,
    Feedback,
    Nearest,
    Problem,
    Solution,
    Strength,
    drift_solution,
    input_correction,
    output_loss,
    refine,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one weight: the solution, how it was chosen, and losses for the report (relative to the output)."""

    step: Step
    weight: Tensor
    solution: Solution
    chosen: str
    loss: float
    loss_nearest: float
    gram_diagonal: Tensor | None = None
    sample: Tensor | None = None


@dataclass(slots=True)
class _Work:
    """One input of the stage with the weights that read it."""

    steps: tuple[Step, ...]
    stats: InputStats | None
    gram: Tensor
    weights: dict[str, Tensor]
    corrections: dict[str, Corrections]


class StageRun:
    """One stage of one block in the making."""

    def __init__(self, block: Pass, search: Search, held_out: HeldOut, original: dict[str, Tensor]) -> None:
        self.block, self.search, self.held_out = block, search, held_out
        self.original = original
        self.prefix = block.runner.graph.blocks[block.index].name

    def run(self, stage: Stage, streams: Pair, ranges: list[tuple[int, int]]) -> list[Outcome]:
        """The outcome of every step; the quantized block then holds the chosen weights."""
        outcomes: list[Outcome] = []
        for portion in passes(by_input(stage)):
            needs = any(step.solver.needs_gram for group in portion for step in group)
            stats = collect(self.block, portion, streams, ranges) if needs and ranges else None
            works = [self._work(group, stats[i] if stats else None) for i, group in enumerate(portion)]
            outcomes += self._portion(works)
        return outcomes

    def _work(self, group: tuple[Step, ...], stats: InputStats | None) -> _Work:
        weights = {step.name: step.linear.view.read(self.original[step.linear.view.parameter]).float() for step in group}
        width = group[0].linear.view.shape[1]
        if stats is None or stats.gram.tokens == 0:
            return _Work(group, None, torch.zeros(0, width), weights, {})
        gram = stats.gram.mean()
        return _Work(group, stats, gram, weights, self._corrections(group, stats, gram, weights))

    def _corrections(
        self, group: tuple[Step, ...], stats: InputStats, gram: Tensor, weights: dict[str, Tensor]
    ) -> dict[str, Corrections]:
        """The full corrections of every weight of this input."""
        damp = max((s.solver.damp for s in group if isinstance(s.solver, Feedback)), default=0.01)
        wanted = any(strength.inputs or strength.stream for strength in self.search.strengths)
        if not wanted or stats.drift is None or not float(stats.drift.total.abs().max()) > 0:
            return {}
        solved = drift_solution(gram, stats.drift.mean(), damp)
        found: dict[str, Corrections] = {}
        for step in group:
            stream = stats.stream.get(step.name)
            stream_part = drift_solution(gram, stream.mean(), damp) if stream is not None and stream.tokens else None
            found[step.name] = Corrections(input_correction(weights[step.name], solved), stream_part)
        return found

    def _portion(self, works: list[_Work]) -> list[Outcome]:
        strength = self._strength(works)
        found: dict[str, tuple[Solution, str]] = {}
        for work in works:
            found |= {name: (solution, str(strength)) for name, solution in self._solve(work, strength).items()}
        error = self._try(works, {name: one.qtensor for name, (one, _) in found.items()})
        for refinement in self.search.refinements:
            error = self._refine(works, found, strength, refinement, error)
        if self.search.guard:
            self._guard(works, found, error)
        return [self._outcome(work, step, *found[step.name]) for work in works for step in work.steps]

    def _strength(self, works: list[_Work]) -> Strength:
        """The strength whose targets, unrounded, give the best output on held-out rows."""
        plain = Strength()
        if not any(work.corrections for work in works) or not self.held_out.ranges:
            return plain
        writes = any(one.stream is not None for work in works for one in work.corrections.values())
        options = [s for s in self.search.strengths if writes or not s.stream]
        errors = {option: self._error({s: self._target(w, s, option) for w in works for s in w.steps}) for option in options}
        return min(errors, key=lambda option: errors[option], default=plain)

    def _target(self, work: _Work, step: Step, strength: Strength) -> Tensor:
        correction = work.corrections.get(step.name)
        weight = work.weights[step.name]
        return weight if correction is None else correction.apply(weight, strength)

    def _solve(self, work: _Work, strength: Strength) -> dict[str, Solution]:
        """Solve the weights of one input, those of one spec and solver stacked into one tall matrix."""
        found: dict[str, Solution] = {}
        for same in _alike(work.steps):
            solver, spec = same[0].solver, same[0].spec
            gram = work.gram if work.gram.numel() else None
            if gram is None and solver.needs_gram:
                for step in same:
                    solution = Nearest().solve(Problem(work.weights[step.name], spec))
                    found[step.name] = replace(solution, notes=("no calibration token reached it: rounded to nearest",))
                continue
            target = torch.cat([self._target(work, step, strength) for step in same])
            solution = solver.solve(Problem(target, spec, gram))
            found |= _split(solution, same)
        return found

    def _refine(
        self,
        works: list[_Work],
        found: dict[str, tuple[Solution, str]],
        strength: Strength,
        refinement: Refinement,
        error: float,
    ) -> float:
        """Try a refinement of all weights; keep it if the output improves. Returns the error of what is kept."""
        trial: dict[str, tuple[Solution, str]] = {}
        for work in works:
            for step in work.steps:
                if not isinstance(step.solver, Feedback) or not work.gram.numel():
                    continue
                problem = Problem(self._target(work, step, strength), step.spec, work.gram)
                damping = step.solver.damp * float(work.gram.diagonal().mean())
                refined = refine(found[step.name][0].qtensor, problem, damping, refinement.sweeps, refinement.refits)
                solution = replace(found[step.name][0], qtensor=refined)
                trial[step.name] = (solution, f"{found[step.name][1]}, refined {refinement.sweeps}+{refinement.refits}")
        if not trial or not self.held_out.ranges:
            return error
        after = self._try(works, {name: one.qtensor for name, (one, _) in trial.items()})
        if after < error:
            found |= trial
            return after
        self._try(works, {name: one.qtensor for name, (one, _) in found.items()}, measure=False)
        return error

    def _guard(self, works: list[_Work], found: dict[str, tuple[Solution, str]], error: float) -> None:
        """Keep Nearest for every weight with which the held-out output is better than with what was found."""
        if not self.held_out.ranges:
            return
        for work in works:
            for step in work.steps:
                if isinstance(step.solver, Nearest):
                    continue
                nearest = Nearest().solve(Problem(work.weights[step.name], step.spec))
                after = self._error({step: nearest.qtensor.dequantize()})
                if after < error:
                    note = f"rounded to nearest: held-out block error {after:.4g} instead of {error:.4g}"
                    found[step.name] = (replace(nearest, notes=(*found[step.name][0].notes, note)), "nearest")
                    error = after
                else:
                    self._put({step: found[step.name][0].qtensor.dequantize()})

    def _try(self, works: list[_Work], tensors: dict[str, QTensor], measure: bool = True) -> float:
        matrices = {s: tensors[s.name].dequantize() for w in works for s in w.steps if s.name in tensors}
        if measure:
            return self._error(matrices)
        self._put(matrices)
        return float("nan")

    def _error(self, matrices: dict[Step, Tensor]) -> float:
        self._put(matrices)
        return self.held_out.error(self.block)

    def _put(self, matrices: dict[Step, Tensor]) -> None:
        views: dict[WeightView, Tensor] = {step.linear.view: matrix for step, matrix in matrices.items()}
        put_weights(self.block.quantized, self.prefix, views)

    def _outcome(self, work: _Work, step: Step, solution: Solution, chosen: str) -> Outcome:
        gram = work.gram if work.gram.numel() else None
        weight = work.weights[step.name]
        energy = max(output_loss(weight, gram), 1e-30)
        nearest = Nearest().solve(Problem(weight, step.spec, gram))
        loss = output_loss(solution.qtensor.dequantize() - weight, gram)
        diagonal = None if gram is None else gram.diagonal().clone()
        sample = None if work.stats is None else work.stats.sample
        return Outcome(step, weight, solution, chosen, loss / energy, nearest.loss / energy, diagonal, sample)


def _alike(steps: tuple[Step, ...]) -> list[list[Step]]:
    """Steps that may be solved as one tall matrix: same spec and solver, no tile across rows of two weights."""
    groups: list[list[Step]] = []
    for step in steps:
        tile = step.spec.tile
        stackable = tile is None or (tile.rows == 1 and (step.spec.scale is None or step.spec.scale.tile is None))
        fits: Callable[[list[Step]], bool] = lambda g, s=step: (g[0].spec, g[0].solver) == (s.spec, s.solver)  # noqa: E731
        home = next((group for group in groups if fits(group)), None) if stackable else None
        if home is None:
            groups.append([step])
        else:
            home.append(step)
    return groups


def _split(solution: Solution, steps: list[Step]) -> dict[str, Solution]:
    """Cut a tall solution back into the weights that were stacked."""
    if len(steps) == 1:
        return {steps[0].name: solution}
    found: dict[str, Solution] = {}
    start = 0
    for step in steps:
        stop = start + step.linear.view.shape[0]
        found[step.name] = replace(solution, qtensor=rows_of(solution.qtensor, start, stop))
        start = stop
    return found


def rows_of(qtensor: QTensor, start: int, stop: int) -> QTensor:
    """These rows of a tensor whose tiles are one row high."""
    scale = None if qtensor.scale is None else rows_of(qtensor.scale, start, stop)
    zero = None if qtensor.zero is None else rows_of(qtensor.zero, start, stop)
    return QTensor(qtensor.codes[start:stop], qtensor.spec, scale, zero)
