"""Relief: where a few values make much of the outputs' error, the operators around them stay float if they are cheap.

A network may have places that 8 bits do not suit: the first layers of a diffusion model at its last steps, the logits
of a gate. What each value in codes alone costs the outputs is told by gradients (`effects.py`); where there are none it
is found by halving, the noise of some points alone being simulated. Then step by step the operators that read a value
in codes (and, where it exists in codes only, the one that makes it) are made float: those whose share of the error is
largest for their share of the products. Every step is simulated on held-out samples before it is taken. It ends where
the outputs are good enough for any use: float operators among integers cost time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, final

from torch import Tensor

from bitwright.calib import Effect, total_noise
from bitwright.engine.checkpoint_forms import ranges_form
from bitwright.engine.judge import Judge, Points, Ranges, best_ranges
from bitwright.engine.observe import Observed
from bitwright.engine.portions import run_in_parts
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.recipe.network import NetworkPlan, NetworkPlanError
from bitwright.recipe.network_cost import products
from bitwright.recipe.targets import Role
from bitwright.store.checkpoints import NUMBER, Checkpoints, Form, Parts
from bitwright.store.quantized import StoredPoint

SHARE = 1 / 20  # of the outputs' error that a value has to make
FOUND = 1 / 3  # of it that a value has to make to be found by halving, which takes many simulations
COST = 1 / 4  # of the network's products that may become float again, all together
WORTH = 4  # times its share of the products is what an operator's share of the error has to be
TRIED = 4  # options of one round that are simulated, the best first
ROUNDS = 16
QUIET = 1e-4  # noise over signal of the outputs, 40 dB, that is not worth time to improve on

SHARES: Form[dict[str, float]] = Form(lambda found: (found, {}), lambda data, _: dict(data))
Planner = Callable[[Mapping[str, str]], NetworkPlan]  # by node that shall stay float, why


@final
@dataclass(frozen=True, slots=True)
class Eased:
    """One step of relief: the nodes that stay float, and what that came to.

    `error`: the share of the outputs' error before the step that is gone after it, `products`: of the network's
    products; `noise`: of the outputs after it, noise over signal on held-out samples.
    """

    nodes: tuple[str, ...]
    values: tuple[str, ...]
    error: float
    products: float
    noise: float

    @property
    def why(self) -> str:
        """The reason for a node of this step."""
        held = ", ".join(self.values)
        return f"relief: {held} in codes made {self.error:.0%} of the error, with {self.products:.1%} of the products"


@final
@dataclass(frozen=True, slots=True)
class Bounds:
    """What an option has to be: its part of the error at least `share`, and `worth` times its part of the products.

    `cost`: the part of the network's products that may be float again, all together. `tried`: how many values are
    looked at, those that make most of the error for their products; None: all.
    """

    share: float
    worth: float
    cost: float
    tried: int | None = None


CHEAP = Bounds(SHARE, WORTH, COST)
AT_ANY_COST = Bounds(0.0, 0.0, 1.0, tried=TRIED)


@final
@dataclass(frozen=True, slots=True)
class Relieved:
    """What is quantized after relief and with which ranges; the steps that led there, and by node of theirs, why."""

    plan: NetworkPlan
    ranges: Ranges
    reasons: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Eased, ...] = ()


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Option:
    """Nodes that could stay float, the plan with them, and the part of the error and of the products that they make."""

    nodes: tuple[str, ...]
    plan: NetworkPlan
    error: float
    products: float

    @property
    def worth(self) -> float:
        return self.error / max(self.products, 1e-3)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Relief:
    """How relief is decided in one network: `planner` plans it with more nodes in float."""

    runner: OnnxRunner
    judge: Judge
    observed: Observed
    planner: Planner

    def relieve(self, plan: NetworkPlan, ranges: Ranges, checkpoints: Checkpoints) -> Relieved:
        """The plan with every operator relieved that is worth it."""
        now = Relieved(plan, ranges)
        noise = checkpoints.once("noise", lambda: self.judge.noise(self.runner, ranges.points), NUMBER)
        alone = checkpoints.once("shares", lambda: self._alone(ranges.points, noise), SHARES)
        costs = self._products()
        for place in range(ROUNDS):
            if noise <= QUIET:
                break
            step = partial(self._next, now, noise, alone, costs)
            found = checkpoints.once(f"relief {place}", step, self._form(now))
            if found is None:
                break
            now, noise = found, found.steps[-1].noise
        return now

    def further(self, now: Relieved, noise: float, enough: float, checkpoints: Checkpoints) -> Relieved | None:
        """As many operators more in float as should bring the noise from `noise` to `enough`, whatever they cost.

        They come in the order of what they make of the error for their products. None where none is left.
        """
        alone = checkpoints.once("each", lambda: self._each(now.ranges.points), SHARES)
        step = partial(self._dearer, now, noise, enough, alone)
        return checkpoints.once("further", step, self._form(now))

    def _dearer(self, now: Relieved, noise: float, enough: float, alone: Mapping[str, float]) -> Relieved | None:
        costs, total, held = self._products(), sum(alone.values()), now
        while options := list(self._options(held, alone, costs, AT_ANY_COST)):
            best = max(options, key=lambda option: option.worth)
            held = self._with(held, best)
            if noise * sum(alone.get(point.value, 0.0) for point in held.plan.placement.points) <= enough * total:
                break
        nodes = tuple(name for name in held.reasons if name not in now.reasons)
        if not nodes:
            return None
        ranges = self._ranges(held.plan, now)
        after = self.judge.noise(self.runner, ranges.points)
        spent = sum(costs.get(name, 0) for name in nodes) / max(1, sum(costs.values()))
        return _stepped(now, _Option(nodes, held.plan, 0.0, spent), ranges, (1 - after / max(noise, 1e-30), after))

    def _with(self, now: Relieved, option: _Option) -> Relieved:
        """What an option comes to, before its ranges are known."""
        points = {point.value: point for point in option.plan.placement.points if point.value in now.ranges.points}
        kept = {name: replace(now.ranges.points[name], readers=point.readers) for name, point in points.items()}
        reasons = dict(now.reasons) | dict.fromkeys(option.nodes, "relief")
        return Relieved(option.plan, replace(now.ranges, points=kept), reasons, now.steps)

    def _each(self, points: Points) -> dict[str, float]:
        """What each value in codes alone costs the outputs; simulated one by one where gradients do not tell."""
        effects = self.observed.effects
        return {
            name: _cost(effects[name], point) if name in effects else self.judge.noise(self.runner, {name: point})
            for name, point in points.items()
        }

    def _form(self, before: Relieved) -> Form[Relieved | None]:
        """The last step and the ranges; the plan follows from the steps."""
        rules = [rule for rule, _ in before.ranges.tried]

        def apart(found: Relieved | None) -> Parts:
            if found is None:
                return None, {}
            ranges, arrays = ranges_form(found.plan, rules).apart(found.ranges)
            step = found.steps[-1]
            figures = [step.error, step.products, step.noise]
            return {
                "nodes": list(step.nodes),
                "values": list(step.values),
                "figures": figures,
                "ranges": ranges,
            }, arrays

        def together(data: Any, arrays: Mapping[str, Tensor]) -> Relieved | None:
            if data is None:
                return None
            step = Eased(tuple(data["nodes"]), tuple(data["values"]), *data["figures"])
            reasons = dict(before.reasons) | dict.fromkeys(step.nodes, step.why)
            plan = self.planner(reasons)
            ranges = ranges_form(plan, rules).together(data["ranges"], arrays)
            return Relieved(plan, ranges, reasons, (*before.steps, step))

        return Form(apart, together)

    def _next(
        self, now: Relieved, noise: float, alone: Mapping[str, float], costs: Mapping[str, int]
    ) -> Relieved | None:
        """One step further; None where no step is worth its products, or none does what it promised."""
        options = sorted(self._options(now, alone, costs), key=lambda option: -option.worth)
        for option in options[:TRIED] if noise > 0 else ():
            ranges = self._ranges(option.plan, now)
            after = self.judge.noise(self.runner, ranges.points)
            gone = 1 - after / noise
            if gone >= max(SHARE, WORTH * option.products) / 2:
                return _stepped(now, option, ranges, (gone, after))
        return None

    def _options(
        self, now: Relieved, alone: Mapping[str, float], costs: Mapping[str, int], bounds: Bounds = CHEAP
    ) -> Iterator[_Option]:
        """What could be made float next, as far as it is cheap enough and promises enough."""
        total = sum(alone.get(name, 0.0) for name in now.ranges.points)
        every = sum(costs.values())
        spent = sum(costs.get(name, 0) for name in now.reasons)
        wanted = [name for name in now.ranges.points if total and alone.get(name, 0.0) >= bounds.share * total]
        around = {name: tuple(self._around(now.ranges.points[name], now.plan)) for name in wanted}
        taken = {name: sum(costs.get(node, 0) for node in nodes) for name, nodes in around.items()}
        if bounds.tried is not None:
            worth = {name: alone.get(name, 0.0) / max(cost, 1e-3 * every) for name, cost in taken.items()}
            wanted = sorted((name for name in wanted if around[name]), key=lambda name: -worth[name])[: bounds.tried]
        for nodes, cost in {around[name]: taken[name] for name in wanted}.items():
            plan = self._planned({**now.reasons, **dict.fromkeys(nodes, "relief")}) if nodes else None
            if plan is None or spent + cost > bounds.cost * every:
                continue
            left = sum(alone.get(point.value, 0.0) for point in plan.placement.points)
            option = _Option(nodes, plan, 1 - left / total, cost / every)
            if option.error >= max(bounds.share, bounds.worth * option.products):
                yield option

    def _planned(self, reasons: Mapping[str, str]) -> NetworkPlan | None:
        """The plan with these nodes float; None where nothing is left, or it wants ranges that were not observed."""
        try:
            plan = self.planner(reasons)
        except NetworkPlanError:
            return None
        sources = plan.placement.sources(self.runner.network)
        seen = self.observed.histograms or self.observed.extremes
        return plan if all(value in seen for held in sources.values() for value in held) else None

    def _ranges(self, plan: NetworkPlan, now: Relieved) -> Ranges:
        """Every point with the range that it had; ranges anew where other values than before share one."""
        network, held = self.runner.network, now.ranges
        before, after = now.plan.placement.sources(network), plan.placement.sources(network)
        points = {point.value: point for point in plan.placement.points}
        is_known = all(name in held.points and held.points[name].spec == point.spec for name, point in points.items())
        if not is_known or any(before.get(group) != values for group, values in after.items()):
            return best_ranges(plan, self.runner, self.observed, (held.rule,), self.judge)
        kept = {name: replace(held.points[name], readers=point.readers) for name, point in points.items()}
        return replace(held, points=kept, choices={group: held.choices[group] for group in after})

    def _alone(self, points: Points, noise: float) -> dict[str, float]:
        """What each value in codes alone costs the outputs, as noise over signal."""
        effects = self.observed.effects
        found = {name: _cost(effects[name], point) for name, point in points.items() if name in effects}
        return found if found else dict(self._culprits(points, noise))

    def _culprits(self, points: Points, total: float) -> list[tuple[str, float]]:
        """Values that alone make a third or more of the error, the worst first, with the noise of each alone.

        Nothing where more than three parts do so: then any of them brings about what another does as well, another
        order of what is found say, and no few values are the cause.
        """
        found: list[tuple[str, float]] = []
        parts = [(tuple(points), total)] if total > 0 else []
        while parts:
            halves = []
            for names, noise in parts:
                middle = len(names) // 2
                found += [(name, noise) for name in names if not middle]
                halves += [names[:middle], names[middle:]] if middle else []
            tried = [(names, self.judge.noise(self.runner, {name: points[name] for name in names})) for names in halves]
            parts = [(names, noise) for names, noise in tried if noise >= FOUND * total]
            if len(parts) + len(found) > 1 / FOUND:
                return []
        return sorted(found, key=lambda held: -held[1])

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
        """How many multiplications each linear operator takes for the first batch."""
        network, feeds = self.runner.network, self.judge.batches[0]
        nodes = [node for node in network.nodes if not node.domain]
        wanted = [name for node in nodes for name in node.outputs if name and network.values[name].dtype == "float32"]
        sizes = Counter({name: tensor.numel() for name, tensor in feeds.items()})
        run_in_parts(self.runner, feeds, wanted, lambda _, made: sizes.update({n: v.numel() for n, v in made.items()}))
        return products(network, sizes)


def _stepped(now: Relieved, option: _Option, ranges: Ranges, found: tuple[float, float]) -> Relieved:
    """A step taken; `found`: the share of the error that is gone, and the noise after it."""
    left = {point.value for point in option.plan.placement.points}
    values = tuple(name for name in now.ranges.points if name not in left)
    step = Eased(option.nodes, values, found[0], option.products, found[1])
    reasons = dict(now.reasons) | dict.fromkeys(option.nodes, step.why)
    return Relieved(option.plan, ranges, reasons, (*now.steps, step))


def _cost(effect: Effect, point: StoredPoint) -> float:
    """What codes with this point's step and zero cost."""
    return 0.0 if point.params is None else float(total_noise([effect], point.spec, point.params))
