"""A goal for the outputs, and its pursuit: more operators stay float until it is met.

Relief makes float what is cheap. Where the user says how good the outputs have to be, nothing is too dear: operators
become float in the order of what they make of the error for their products, as many as should be enough, the weights
are rounded anew, and what came out is held against the goal. Each round tells how far the next one has to go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, final, runtime_checkable

from bitwright.engine.judge import Judge
from bitwright.engine.progress import OnStep, Step, ignore
from bitwright.engine.relief import Relief, Relieved
from bitwright.engine.simulate import Simulation
from bitwright.engine.walk import Task, Walked, changes_of
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.store.checkpoints import NUMBER, Checkpoints

ROUNDS = 8
LEAST = 1 / 4  # of what a round found that activations may be asked to come down to in the next


@runtime_checkable  # for the type check under pytest
class Goal(Protocol):
    """What is asked of the outputs. `told`: that in plain data, from which a run is known again."""

    @property
    def told(self) -> Mapping[str, Any]: ...

    def figure(self, noise: float, network: Simulation) -> float:
        """What is to be held against the goal; `noise`: noise over signal of the outputs."""
        ...

    def excess(self, figure: float) -> float:
        """By what factor the noise is too large; 1 or less where the goal is met."""
        ...


@final
@dataclass(frozen=True, slots=True)
class LeastSqnr:
    """So many decibels of signal over noise of the outputs."""

    decibels: float

    @property
    def told(self) -> Mapping[str, Any]:
        """As it is in the manifest."""
        return {"min_sqnr": self.decibels}

    def figure(self, noise: float, network: Simulation) -> float:
        """The decibels."""
        return -10 * math.log10(max(noise, 1e-30))

    def excess(self, figure: float) -> float:
        """The noise over the largest that is allowed."""
        return float(10 ** ((self.decibels - figure) / 10))


@final
@dataclass(frozen=True, slots=True)
class Rounded:
    """A rounded network: its task, its weights, and notes for the manifest."""

    task: Task
    walked: Walked
    notes: dict[str, Any]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Pursuit:
    """How goals are pursued in one network; `rounded` rounds what relief has left in codes.

    `judges`: the noise of the outputs is the larger of what they find. Held-out samples show what was clipped, but of a
    few samples they are too few to stand for all.
    """

    goals: Sequence[Goal]
    relief: Relief
    judges: Sequence[Judge]
    checkpoints: Checkpoints
    rounded: Callable[[Relieved], Rounded]
    on_step: OnStep = ignore

    def pursue(self, relieved: Relieved) -> tuple[Relieved, Rounded, Mapping[str, Any]]:
        """What meets all goals, or what comes nearest; notes say which, and what was found on the way."""
        now, found = relieved, self.rounded(relieved)
        rounds: list[dict[str, Any]] = []
        best, least = (now, found, 0), math.inf
        while True:
            noise, excess, figures = self._held_against(found)
            if excess < least:
                best, least = (now, found, len(rounds)), excess
            rounds.append({"noise": noise, "found": figures, "float": len(now.reasons)})
            self.on_step(Step("goal", len(rounds), ROUNDS))
            more = self._further(now, noise, excess) if excess > 1 and len(rounds) < ROUNDS else None
            if more is None:
                break
            now, found = more, self.rounded(more)
        told = [dict(goal.told) for goal in self.goals]
        return best[0], best[1], {"goals": told, "is_met": least <= 1, "rounds": rounds, "taken": best[2]}

    def _held_against(self, found: Rounded) -> tuple[float, float, list[float]]:
        """The noise of the outputs, the largest factor by which that is too much, and the figure of each goal."""
        source, once = OnnxRunner(found.task.source), self.checkpoints.once
        changes = changes_of(source.network, found.walked)
        points = found.task.points
        noise = max(once("noise", partial(judge.noise, source, points, changes), NUMBER) for judge in self.judges)
        network = Simulation(source, points, changes)
        figures = [once("goal", partial(goal.figure, noise, network), NUMBER) for goal in self.goals]
        return noise, max(goal.excess(one) for goal, one in zip(self.goals, figures, strict=True)), figures

    def _further(self, relieved: Relieved, noise: float, excess: float) -> Relieved | None:
        """More in float; rounded weights make a part of the noise, which is taken to stay."""
        own = max(judge.noise(self.relief.runner, relieved.ranges.points) for judge in self.judges)
        enough = max(noise / excess - max(noise - own, 0.0), LEAST * own)
        return self.relief.further(relieved, own, enough, self.checkpoints)
