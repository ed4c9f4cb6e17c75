"""Quantizes one stage of a block: sums, targets, solver, refinement, guard.

Order of decisions, each on held-out rows of the block's output: how strongly the targets make up for upstream errors
(judged on the targets before rounding, which needs no solver); then the codes; then whether refinements are kept; at
last, weight by weight, whether rounding to nearest would have been better. Weights that read the same input and are
stored alike are solved as one tall matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from bitwright.engine.choose import HeldOut, Writer
from bitwright.engine.collect import InputStats, Pair, Pass, by_input, collect, passes
from bitwright.numerics import QTensor, may_cut_rows, row_ranges
from bitwright.recipe.plan import Stage, Step
from bitwright.recipe.recipe import Refinement, Search
from bitwright.solvers import (
    Corrections,
    Feedback,
    Nearest,
    Prepared,
    Problem,
    Solution,
    Strength,
    drift_solution,
    input_correction,
    output_loss,
    prepare,
    refine,
    rounding_loss,
)

_PLAUSIBLE = 2.0  # Nearest is measured on the block's output where its own loss is below this multiple of the solver's


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one weight: the solution, how it was chosen, and its losses relative to the output's energy."""

    step: Step
    solution: Solution
    chosen: str
    loss: float
    loss_nearest: float
    gram_diagonal: Tensor | None = None
    sample: Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Input:
    """What is known of one input: its mean Gram matrix, the factor of that one's inverse as this solver has it made."""

    gram: Tensor | None
    prepared: Prepared | None
    solver: Feedback
    sample: Tensor | None


@dataclass(frozen=True, slots=True)
class _Tall:
    """Weights of one input that are solved together, stacked: [sum of out, in]."""

    steps: tuple[Step, ...]
    weight: Tensor
    input: _Input
    corrections: Corrections

    @property
    def gram(self) -> Tensor | None:
        """The mean Gram matrix; None where nothing is known."""
        return self.input.gram

    def target(self, strength: Strength) -> Tensor:
        """The stacked targets at this strength."""
        return self.corrections.apply(self.weight, strength)

    @property
    def places(self) -> dict[Step, slice]:
        """Which stacked rows belong to each weight."""
        return _places(self.steps)


@dataclass(frozen=True, slots=True)
class _Choice:
    """Codes of stacked weights, the words for how they came about, and the fallbacks that were taken."""

    qtensor: QTensor
    chosen: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    """One weight's codes and how they came about, beside rounding to nearest; losses against the weight as it was."""

    step: Step
    solution: Solution
    chosen: str
    nearest: Solution


class StageRun:
    """One stage of one block in the making."""

    def __init__(self, block: Pass, search: Search, held_out: HeldOut, original: dict[str, Tensor]) -> None:
        self.block, self.search, self.held_out = block, search, held_out
        self.original = original
        self.writer = Writer(block.quantized, block.runner.graph.blocks[block.index].name)

    def run(self, stage: Stage, streams: Pair, ranges: list[tuple[int, int]]) -> list[Outcome]:
        """The outcome of every step; the quantized block then holds the chosen weights."""
        self.block.enter(stage)
        outcomes: list[Outcome] = []
        for portion in passes(by_input(stage)):
            needs = any(step.solver.needs_gram for group in portion for step in group)
            found = collect(self.block, portion, streams, ranges) if needs and ranges else []
            talls: list[_Tall] = []
            for group in portion:  # the sums of an input are given up as soon as its targets are known
                talls += self._talls(group, found.pop(0) if found else None)
            outcomes += self._decide(talls)
        return outcomes

    def _talls(self, group: tuple[Step, ...], stats: InputStats | None) -> list[_Tall]:
        """The weights of one input, stacked where they are stored alike, with all that is known of the input."""
        solver = next((step.solver for step in group if isinstance(step.solver, Feedback)), Feedback())
        known = stats is not None and stats.gram.tokens > 0
        gram = stats.gram.take_mean() if stats is not None and known else None
        prepared = None if gram is None else prepare(gram, solver.damp, solver.order)
        seen = _Input(gram, prepared, solver, stats.sample if stats else None)
        drift = self._drift(prepared, stats)
        places, talls = _places(group), []
        for steps in _alike(group):
            weight = torch.cat([s.linear.view.read(self.original[s.linear.view.parameter]).float() for s in steps])
            if stats is not None and stats.through and drift is not None:
                inputs: Tensor | None = torch.cat([drift[places[step]] for step in steps])
            else:
                inputs = input_correction(weight, drift)
            stream = self._stream_correction(steps, prepared, stats)
            talls.append(_Tall(steps, weight, seen, Corrections(inputs, stream)))
        return talls

    def _drift(self, prepared: Prepared | None, stats: InputStats | None) -> Tensor | None:
        """C (H + lambda I)^-1, or W C (H + lambda I)^-1 where that was summed; None where the input did not drift."""
        drift = None if stats is None else stats.drift
        if drift is None or max(self.search.inputs) <= 0 or not bool(drift.total.any()):
            return None
        return drift_solution(prepared, drift.take_mean())

    def _stream_correction(
        self, steps: tuple[Step, ...], prepared: Prepared | None, stats: InputStats | None
    ) -> Tensor | None:
        """How the writers among these weights make up for the drift of the stream; zeros for the others."""
        if stats is None or prepared is None or max(self.search.stream) <= 0:
            return None
        sums = [stats.stream.get(step.name) for step in steps]
        if not any(one is not None and one.tokens and bool(one.total.any()) for one in sums):
            return None
        parts = [
            torch.zeros(step.linear.view.shape) if one is None else one.take_mean()
            for step, one in zip(steps, sums, strict=True)
        ]
        return drift_solution(prepared, torch.cat(parts) if len(parts) > 1 else parts[0])

    def _decide(self, talls: list[_Tall]) -> list[Outcome]:
        strength = self._strength(talls)
        choices = [self._solve(tall, strength) for tall in talls]
        error = self._error(talls, choices)
        for refinement in self.search.refinements:
            trial = [self._refined(*pair, strength, refinement) for pair in zip(talls, choices, strict=True)]
            if self.held_out.ranges and any(a is not b for a, b in zip(trial, choices, strict=True)):
                after = self._error(talls, trial)
                if after < error:
                    choices, error = trial, after
        self._put(talls, choices)
        found = [_found(*pair) for pair in zip(talls, choices, strict=True)]
        if self.search.guard and self.held_out.ranges:
            self._guard(found, error)
        return [_outcome(tall, one[step]) for tall, one in zip(talls, found, strict=True) for step in tall.steps]

    def _strength(self, talls: list[_Tall]) -> Strength:
        """The strength whose targets, unrounded, give the best output on held-out rows; from the strongest down.

        The error is close to a parabola in either strength, so the search stops when it rises again.
        """
        best = Strength()
        if not self.held_out.ranges:
            return best
        if any(tall.corrections.inputs is not None for tall in talls):
            best = self._descend(talls, [Strength(x, 0.0) for x in sorted(self.search.inputs, reverse=True)])
        if any(tall.corrections.stream is not None for tall in talls):
            options = sorted(self.search.stream, reverse=True)
            best = self._descend(talls, [Strength(best.inputs, x) for x in options])
        return best

    def _descend(self, talls: list[_Tall], options: list[Strength]) -> Strength:
        best, least = options[0], float("inf")
        for option in options:
            for tall in talls:
                self._put_target(tall, option)
            error = self.held_out.deciding_error(self.block)
            if error >= least:
                break
            best, least = option, error
        return best

    def _solve(self, tall: _Tall, strength: Strength) -> _Choice:
        solver, spec = tall.steps[0].solver, tall.steps[0].spec
        if tall.gram is None and solver.needs_gram:
            qtensor = Nearest().solve(Problem(tall.weight, spec)).qtensor
            return _Choice(qtensor, "nearest", ("no calibration token reached it: rounded to nearest",))
        problem = Problem(tall.target(strength), spec, tall.gram)
        shared = tall.input.solver
        if isinstance(solver, Feedback) and (solver.damp, solver.order) == (shared.damp, shared.order):
            qtensor, notes = solver.round_prepared(problem, tall.input.prepared)
            return _Choice(qtensor, str(strength), notes)
        solution = solver.solve(problem)
        return _Choice(solution.qtensor, str(strength), solution.notes)

    def _refined(self, tall: _Tall, choice: _Choice, strength: Strength, refinement: Refinement) -> _Choice:
        """The choice after this refinement; the same object where there is nothing to refine."""
        solver = tall.steps[0].solver
        if tall.gram is None or not isinstance(solver, Feedback):
            return choice
        problem = Problem(tall.target(strength), tall.steps[0].spec, tall.gram)
        damping = solver.damp * float(tall.gram.diagonal().mean())
        refined = refine(choice.qtensor, problem, damping, refinement.sweeps, refinement.refits)
        return _Choice(refined, f"{choice.chosen}, {refinement}", choice.notes)

    def _guard(self, found: list[dict[Step, _Found]], error: float) -> None:
        """Keep Nearest for every weight with which the held-out output is better than with what was found."""
        for weights in found:
            for step, one in weights.items():
                if isinstance(step.solver, Nearest) or one.nearest.loss > _PLAUSIBLE * one.solution.loss:
                    continue
                self.writer.put_qtensor(step.linear.view, one.nearest.qtensor)
                after = self.held_out.deciding_error(self.block)
                if after < error:
                    note = f"rounded to nearest: held-out block error {after:.4g} instead of {error:.4g}"
                    solution = replace(one.nearest, notes=(*one.solution.notes, note))
                    weights[step] = replace(one, solution=solution, chosen="nearest")
                    error = after
                else:
                    self.writer.put_qtensor(step.linear.view, one.solution.qtensor)

    def _error(self, talls: list[_Tall], choices: list[_Choice]) -> float:
        self._put(talls, choices)
        return self.held_out.deciding_error(self.block)

    def _put(self, talls: list[_Tall], choices: list[_Choice]) -> None:
        for tall, choice in zip(talls, choices, strict=True):
            for step, one in _split(tall, choice).items():
                self.writer.put_qtensor(step.linear.view, one.qtensor)

    def _put_target(self, tall: _Tall, strength: Strength) -> None:
        """Write the targets, unrounded, some rows at a time."""
        for step, place in tall.places.items():
            for start, stop in row_ranges(step.spec, step.linear.view.shape):
                rows = slice(place.start + start, place.start + stop)
                target = tall.corrections.rows(rows).apply(tall.weight[rows], strength)
                self.writer.put(step.linear.view, target, start)


def _found(tall: _Tall, choice: _Choice) -> dict[Step, _Found]:
    """The choice weight by weight, with its losses and those of rounding to nearest."""
    found = {}
    for step, one in _split(tall, choice).items():
        weight = tall.weight[tall.places[step]]
        solution = Solution(one.qtensor, rounding_loss(one.qtensor, weight, tall.gram), one.notes)
        found[step] = _Found(step, solution, one.chosen, Nearest().solve(Problem(weight, step.spec, tall.gram)))
    return found


def _outcome(tall: _Tall, found: _Found) -> Outcome:
    energy = max(output_loss(tall.weight[tall.places[found.step]], tall.gram), 1e-30)
    losses = found.solution.loss / energy, found.nearest.loss / energy
    diagonal = None if tall.gram is None else tall.gram.diagonal().clone()
    return Outcome(found.step, found.solution, found.chosen, *losses, diagonal, tall.input.sample)


def _places(steps: tuple[Step, ...]) -> dict[Step, slice]:
    """Where each weight's rows lie when those of all these are stacked."""
    ends = list(accumulate(step.linear.view.shape[0] for step in steps))
    return {step: slice(end - step.linear.view.shape[0], end) for step, end in zip(steps, ends, strict=True)}


def _alike(group: tuple[Step, ...]) -> list[tuple[Step, ...]]:
    """Steps that may be solved as one tall matrix: same spec and solver, nothing shared by rows of two weights."""
    groups: dict[object, list[Step]] = {}
    for step in group:
        groups.setdefault((step.spec, step.solver) if may_cut_rows(step.spec) else step.name, []).append(step)
    return [tuple(steps) for steps in groups.values()]


def _split(tall: _Tall, choice: _Choice) -> dict[Step, _Choice]:
    """Cut a tall solution back into the weights that were stacked."""
    if len(tall.steps) == 1:
        return {tall.steps[0]: choice}
    qtensor = choice.qtensor
    return {step: replace(choice, qtensor=qtensor.rows(p.start, p.stop)) for step, p in tall.places.items()}
