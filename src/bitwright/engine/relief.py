"""Relief: where one value alone makes much of the outputs' error, the operators around it stay float if they are cheap.

A network may have one place that 8 bits do not suit: the last few channels of a diffusion model, the logits of a gate.
It is found by halving: the noise of some points alone is simulated, and only a half that makes enough of the whole is
looked at further. Then what reads the value (and, where the value exists in codes only, what makes it) is kept float,
and held-out samples decide whether that was worth it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

from torch import Tensor

from bitwright.calib import RangeRule
from bitwright.engine.checkpoint_forms import ranges_form
from bitwright.engine.judge import Judge, Points, Ranges, best_ranges
from bitwright.engine.observe import Observed
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.recipe.network import NetworkPlan, NetworkPlanError
from bitwright.recipe.network_cost import products
from bitwright.recipe.targets import Role
from bitwright.store.checkpoints import Checkpoints, Form, Parts
from bitwright.store.quantized import StoredPoint

SHARE = 1 / 3  # of the outputs' error that a value has to make
COST = 1 / 10  # of the network's products that may become float again
GAIN = 1 / 4  # of the error that has to go for it
ROUNDS = 8

Planner = Callable[[Mapping[str, str]], NetworkPlan]  # by node that shall stay float, why


@final
@dataclass(frozen=True, slots=True)
class Relieved:
    """What is quantized after relief and with which ranges; by node that stays float for it, why."""

    plan: NetworkPlan
    ranges: Ranges
    reasons: Mapping[str, str] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Relief:
    """How relief is decided in one network: `planner` plans it with more nodes in float."""

    runner: OnnxRunner
    judge: Judge
    observed: Observed
    planner: Planner

    def relieve(self, plan: NetworkPlan, ranges: Ranges, checkpoints: Checkpoints) -> Relieved:
        """The plan with every value relieved that is worth it."""
        now = Relieved(plan, ranges)
        rules = [rule for rule, _ in ranges.tried]
        for place in range(ROUNDS):
            found = checkpoints.once(f"relief {place}", partial(self._next, now), self._form(rules))
            if found is None:
                break
            now = found
        return now

    def _form(self, rules: Sequence[RangeRule]) -> Form[Relieved | None]:
        """The reasons, from which the plan follows, and the ranges."""

        def apart(found: Relieved | None) -> Parts:
            if found is None:
                return None, {}
            ranges, arrays = ranges_form(found.plan, rules).apart(found.ranges)
            return {"reasons": list(found.reasons.items()), "ranges": ranges}, arrays

        def together(data: Any, arrays: Mapping[str, Tensor]) -> Relieved | None:
            if data is None:
                return None
            reasons = dict(data["reasons"])
            plan = self.planner(reasons)
            return Relieved(plan, ranges_form(plan, rules).together(data["ranges"], arrays), reasons)

        return Form(apart, together)

    def _next(self, now: Relieved) -> Relieved | None:
        costs = self._products()
        total = self.judge.noise(self.runner, now.ranges.points)
        for value, noise in self._culprits(now.ranges.points, total):
            around = self._around(now.ranges.points[value], now.plan)
            share = noise / total
            reasons = dict(now.reasons) | dict.fromkeys(
                around, f"relief: {value} in codes alone makes {share:.0%} of the outputs' error"
            )
            tried = self._tried(reasons, now.ranges.rule, costs)
            if tried is not None and self.judge.noise(self.runner, tried.ranges.points) <= (1 - GAIN) * total:
                return tried
        return None

    def _tried(self, reasons: Mapping[str, str], rule: RangeRule, costs: Mapping[str, int]) -> Relieved | None:
        """The plan with these nodes float; None where that is too dear, or wants ranges that were not observed."""
        lost = sum(costs.get(name, 0) for name in reasons)
        if lost > COST * sum(costs.values()):
            return None
        try:
            plan = self.planner(reasons)
        except NetworkPlanError:
            return None
        sources = plan.placement.sources(self.runner.network)
        if any(value not in self.observed.histograms for held in sources.values() for value in held):
            return None
        return Relieved(plan, best_ranges(plan, self.runner, self.observed, (rule,), self.judge), reasons)

    def _culprits(self, points: Points, total: float) -> list[tuple[str, float]]:
        """Values that alone make a third or more of the error, the worst first, with the noise of each alone."""
        if total <= 0:
            return []
        found: list[tuple[str, float]] = []
        halves: list[Sequence[str]] = [tuple(points)]
        while halves:
            names = halves.pop()
            noise = total if len(names) == len(points) else self._alone(points, names)
            if noise < SHARE * total or not names:
                continue
            if len(names) == 1:
                found.append((names[0], noise))
                continue
            middle = len(names) // 2
            halves += [names[:middle], names[middle:]]
        return sorted(found, key=lambda held: -held[1])

    def _alone(self, points: Points, names: Sequence[str]) -> float:
        return self.judge.noise(self.runner, {name: points[name] for name in names})

    def _around(self, point: StoredPoint, plan: NetworkPlan) -> list[str]:
        """The nodes in integers because of which a value passes through codes."""
        network, integer = self.runner.network, plan.placement.integer
        readers = [node.name for node, _ in network.readers(point.value)]
        around = [name for name in (readers if point.readers is None else point.readers) if name in integer]
        value = point.value
        while point.readers is None and (maker := network.producers.get(value)) is not None and maker.name in integer:
            around.append(maker.name)
            if integer[maker.name] is not Role.CLAMP:  # a clamp is part of the operator before it
                break
            value = maker.inputs[0]
        return list(dict.fromkeys(around))

    def _products(self) -> dict[str, int]:
        """How many multiplications each linear operator takes for one sample."""
        network, feeds = self.runner.network, self.judge.batches[0]
        nodes = [node for node in network.nodes if not node.domain]
        wanted = [name for node in nodes for name in node.outputs if name and network.values[name].dtype == "float32"]
        found = {**self.runner.run(feeds, wanted), **feeds}
        return products(network, {name: tensor.numel() for name, tensor in found.items()})
