"""Quantizes one stage of a block: sums, targets, solver, refinement, guard.

Order of decisions, each on held-out rows of the block's output: how strongly the targets make up for upstream errors
(judged on the targets before rounding, which needs no solver); then the codes; then whether refinements are kept; at
last, weight by weight, whether rounding to nearest would have been better. Weights that read the same input and are
stored alike are solved as one tall matrix.
"""

from __future__ import annotations

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

_PLAUSIBLE = 2.0  # Nearest is measured on the block's output where its own loss is below this multiple of the solver's


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one weight: the solution, how it was chosen, and its losses relative to the output's energy."""

    step: Step
    weight: Tensor
    solution: Solution
    chosen: str
    loss: float
    loss_nearest: float
    gram_diagonal: Tensor | None = None
    sample: Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Tall:
    """Weights of one input that are solved together, stacked: [sum of out, in]; `gram` None where nothing is known."""

    steps: tuple[Step, ...]
    weight: Tensor
    gram: Tensor | None
    corrections: Corrections
    sample: Tensor | None

    def target(self, strength: Strength) -> Tensor:
        """The stacked targets at this strength."""
        return self.corrections.apply(self.weight, strength)

    def split(self, tall: Tensor) -> dict[Step, Tensor]:
        """The stacked rows by weight."""
        parts = tall.split([step.linear.view.shape[0] for step in self.steps])
        return dict(zip(self.steps, parts, strict=True))


@dataclass(frozen=True, slots=True)
class _Choice:
    """A solution of stacked weights and the words for how it came about."""

    solution: Solution
    chosen: str


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
            talls = [t for i, group in enumerate(portion) for t in self._talls(group, stats[i] if stats else None)]
            outcomes += self._decide(talls)
        return outcomes

    def _talls(self, group: tuple[Step, ...], stats: InputStats | None) -> list[_Tall]:
        """The weights of one input, stacked where they are stored alike, with all that is known of the input."""
        gram = stats.gram.mean() if stats is not None and stats.gram.tokens else None
        damp = max((s.solver.damp for s in group if isinstance(s.solver, Feedback)), default=0.01)
        solved = None
        drift = stats.drift if stats is not None and max(self.search.inputs) > 0 else None
        if gram is not None and drift is not None and bool(drift.total.any()):
            solved = drift_solution(gram, drift.mean(), damp)
        talls = []
        for steps in _alike(group):
            weight = torch.cat([s.linear.view.read(self.original[s.linear.view.parameter]).float() for s in steps])
            stream = self._stream_correction(steps, stats, gram, damp)
            corrections = Corrections(input_correction(weight, solved), stream)
            talls.append(_Tall(steps, weight, gram, corrections, stats.sample if stats else None))
        return talls

    def _stream_correction(
        self, steps: tuple[Step, ...], stats: InputStats | None, gram: Tensor | None, damp: float
    ) -> Tensor | None:
        """How the writers among these weights make up for the drift of the stream; zeros for the others."""
        if stats is None or gram is None or max(self.search.stream) <= 0:
            return None
        sums = [stats.stream.get(step.name) for step in steps]
        if not any(one is not None and one.tokens and bool(one.total.any()) for one in sums):
            return None
        parts = [
            torch.zeros(step.linear.view.shape) if one is None else one.mean()
            for step, one in zip(steps, sums, strict=True)
        ]
        return drift_solution(gram, torch.cat(parts), damp)

    def _decide(self, talls: list[_Tall]) -> list[Outcome]:
        strength = self._strength(talls)
        choices = [self._solve(tall, strength) for tall in talls]
        error = self._error(self._matrices(talls, choices))
        for refinement in self.search.refinements:
            trial = [self._refined(*pair, strength, refinement) for pair in zip(talls, choices, strict=True)]
            if self.held_out.ranges and any(a is not b for a, b in zip(trial, choices, strict=True)):
                after = self._error(self._matrices(talls, trial))
                if after < error:
                    choices, error = trial, after
        self._put(self._matrices(talls, choices))
        found = {s: c for t, choice in zip(talls, choices, strict=True) for s, c in _split(t, choice).items()}
        if self.search.guard and self.held_out.ranges:
            self._guard(talls, found, error)
        return [self._outcome(tall, step, found[step]) for tall in talls for step in tall.steps]

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
            matrices = {s: m for tall in talls for s, m in tall.split(tall.target(option)).items()}
            error = self._error(matrices)
            if error >= least:
                break
            best, least = option, error
        return best

    def _solve(self, tall: _Tall, strength: Strength) -> _Choice:
        solver, spec = tall.steps[0].solver, tall.steps[0].spec
        if tall.gram is None and solver.needs_gram:
            solution = Nearest().solve(Problem(tall.weight, spec))
            return _Choice(replace(solution, notes=("no calibration token reached it: rounded to nearest",)), "nearest")
        return _Choice(solver.solve(Problem(tall.target(strength), spec, tall.gram)), str(strength))

    def _refined(self, tall: _Tall, choice: _Choice, strength: Strength, refinement: Refinement) -> _Choice:
        """The choice after this refinement; the same object where there is nothing to refine."""
        solver = tall.steps[0].solver
        if tall.gram is None or not isinstance(solver, Feedback):
            return choice
        problem = Problem(tall.target(strength), tall.steps[0].spec, tall.gram)
        damping = solver.damp * float(tall.gram.diagonal().mean())
        refined = refine(choice.solution.qtensor, problem, damping, refinement.sweeps, refinement.refits)
        return _Choice(replace(choice.solution, qtensor=refined), f"{choice.chosen}, {refinement}")

    def _guard(self, talls: list[_Tall], found: dict[Step, _Choice], error: float) -> None:
        """Keep Nearest for every weight with which the held-out output is better than with what was found."""
        for tall in talls:
            for step, weight in tall.split(tall.weight).items():
                if isinstance(step.solver, Nearest):
                    continue
                now = found[step].solution
                nearest = Nearest().solve(Problem(weight, step.spec, tall.gram))
                if nearest.loss > _PLAUSIBLE * output_loss(now.qtensor.dequantize() - weight, tall.gram):
                    continue
                after = self._error({step: nearest.qtensor.dequantize()})
                if after < error:
                    note = f"rounded to nearest: held-out block error {after:.4g} instead of {error:.4g}"
                    found[step] = _Choice(replace(nearest, notes=(*now.notes, note)), "nearest")
                    error = after
                else:
                    self._put({step: now.qtensor.dequantize()})

    def _matrices(self, talls: list[_Tall], choices: list[_Choice]) -> dict[Step, Tensor]:
        pairs = zip(talls, choices, strict=True)
        return {s: m for tall, one in pairs for s, m in tall.split(one.solution.qtensor.dequantize()).items()}

    def _error(self, matrices: dict[Step, Tensor]) -> float:
        self._put(matrices)
        return self.held_out.deciding_error(self.block)

    def _put(self, matrices: dict[Step, Tensor]) -> None:
        views: dict[WeightView, Tensor] = {step.linear.view: matrix for step, matrix in matrices.items()}
        put_weights(self.block.quantized, self.prefix, views)

    def _outcome(self, tall: _Tall, step: Step, choice: _Choice) -> Outcome:
        weight = tall.split(tall.weight)[step]
        energy = max(output_loss(weight, tall.gram), 1e-30)
        nearest = Nearest().solve(Problem(weight, step.spec, tall.gram)).loss / energy
        loss = output_loss(choice.solution.qtensor.dequantize() - weight, tall.gram) / energy
        diagonal = None if tall.gram is None else tall.gram.diagonal().clone()
        return Outcome(step, weight, choice.solution, choice.chosen, loss, nearest, diagonal, tall.sample)


def _alike(group: tuple[Step, ...]) -> list[tuple[Step, ...]]:
    """Steps that may be solved as one tall matrix: same spec and solver, no scale shared by rows of two weights."""
    groups: dict[object, list[Step]] = {}
    for step in group:
        tile, scale = step.spec.tile, step.spec.scale
        stackable = tile is None or (tile.rows == 1 and (scale is None or scale.tile is None))
        groups.setdefault((step.spec, step.solver) if stackable else step.name, []).append(step)
    return [tuple(steps) for steps in groups.values()]


def _split(tall: _Tall, choice: _Choice) -> dict[Step, _Choice]:
    """Cut a tall solution back into the weights that were stacked."""
    if len(tall.steps) == 1:
        return {tall.steps[0]: choice}
    found: dict[Step, _Choice] = {}
    start = 0
    for step in tall.steps:
        stop = start + step.linear.view.shape[0]
        qtensor = _rows(choice.solution.qtensor, start, stop)
        found[step] = replace(choice, solution=replace(choice.solution, qtensor=qtensor))
        start = stop
    return found


def _rows(qtensor: QTensor, start: int, stop: int) -> QTensor:
    """These rows of a tensor whose tiles are one row high."""
    scale = None if qtensor.scale is None else _rows(qtensor.scale, start, stop)
    zero = None if qtensor.zero is None else _rows(qtensor.zero, start, stop)
    return QTensor(qtensor.codes[start:stop], qtensor.spec, scale, zero)
