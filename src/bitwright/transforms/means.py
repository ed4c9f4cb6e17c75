"""The mean of values as far as BatchNormalization's statistics reach, with no data.

A normalized value is taken as Gaussian; ReLU and clips narrow it to an interval, whose mean has a closed form; averages
and sums of means go on from there. Whatever else happens ends what is known: a mean that is not known is left out, and
never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.graph.network import Network, Node
from bitwright.transforms.clip import clip_bounds
from bitwright.transforms.moments import Moments

Channels = Float[Tensor, "channels"]


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """A mean per channel; while the value is still a clipped Gaussian, that too, as moments and the two bounds."""

    mean: Channels
    clipped: tuple[Moments, Tensor, Tensor] | None = None


def expected_means(
    network: Network, constants: Mapping[str, Tensor], moments: Mapping[str, Moments]
) -> dict[str, Channels]:
    """The mean of each channel of every value for which the moments say it. Channels lie along axis 1."""
    known: dict[str, _Known] = {}
    for node in network.nodes:
        name = node.outputs[0]
        if name in moments:
            infinite = torch.full_like(moments[name].mean, math.inf)
            known[name] = _Known(moments[name].mean, (moments[name], -infinite, infinite))
        elif node.op in RULES and (found := RULES[node.op](node, network, constants, known)):
            known[name] = found
    return {name: state.mean for name, state in known.items()}


def _narrowed(state: _Known, low: Tensor | float, high: Tensor | float) -> _Known | None:
    if state.clipped is None:
        return None
    moments, lows, highs = state.clipped
    low, high = torch.as_tensor(low, dtype=torch.float64), torch.as_tensor(high, dtype=torch.float64)
    bounds = [torch.minimum(torch.maximum(bound, low), high) for bound in (lows, highs)]
    return _Known(moments.clipped_mean(*bounds), (moments, bounds[0], bounds[1]))


Rule = Callable[[Node, Network, Mapping[str, Tensor], Mapping[str, _Known]], _Known | None]


def _relu(node: Node, network: Network, constants: Mapping[str, Tensor], known: Mapping[str, _Known]) -> _Known | None:
    state = known.get(node.inputs[0])
    return None if state is None else _narrowed(state, 0.0, math.inf)


def _clip(node: Node, network: Network, constants: Mapping[str, Tensor], known: Mapping[str, _Known]) -> _Known | None:
    state, bounds = known.get(node.inputs[0]), clip_bounds(node, constants)
    return None if state is None or bounds is None else _narrowed(state, *bounds)


def _bound(node: Node, network: Network, constants: Mapping[str, Tensor], known: Mapping[str, _Known]) -> _Known | None:
    """Min or Max with one number per channel, or one for all."""
    values = [name for name in node.inputs if name in known]
    bounds = [name for name in node.inputs if name in network.constants]
    if len(values) != 1 or len(bounds) != 1 or len(node.inputs) != 2:
        return None
    bound = constants[bounds[0]].double().reshape(-1)
    if bound.numel() not in (1, known[values[0]].mean.numel()):
        return None
    return _narrowed(known[values[0]], *((-math.inf, bound) if node.op == "Min" else (bound, math.inf)))


def _same(node: Node, network: Network, constants: Mapping[str, Tensor], known: Mapping[str, _Known]) -> _Known | None:
    return known.get(node.inputs[0])


def _average(
    node: Node, network: Network, constants: Mapping[str, Tensor], known: Mapping[str, _Known]
) -> _Known | None:
    """Averages over positions keep the mean, if no padding is counted and channels are not averaged over."""
    state = known.get(node.inputs[0])
    if state is None or node.attributes.get("count_include_pad", 0):
        return None
    if node.op == "ReduceMean":
        given = constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
        axes = [int(i) for i in given.reshape(-1)] if given is not None else list(node.attributes.get("axes", (1,)))
        shape = network.values[node.inputs[0]].shape
        if shape is None or any(axis % len(shape) < 2 for axis in axes):
            return None
    return _Known(state.mean)


def _flat(node: Node, network: Network, constants: Mapping[str, Tensor], known: Mapping[str, _Known]) -> _Known | None:
    """A change of shape after which axis 1 still holds exactly the channels."""
    state, shapes = (
        known.get(node.inputs[0]),
        [network.values[name].shape for name in (node.inputs[0], node.outputs[0])],
    )
    if state is None or any(shape is None or len(shape) < 2 for shape in shapes):
        return None
    sizes = [math.prod(size or 1 for size in shape[1:]) for shape in shapes if shape is not None]
    return _Known(state.mean) if sizes == [state.mean.numel()] * 2 else None


def _sum(node: Node, network: Network, constants: Mapping[str, Tensor], known: Mapping[str, _Known]) -> _Known | None:
    states = [known[name] for name in node.inputs if name in known]
    if len(states) != 2 or states[0].mean.shape != states[1].mean.shape:
        return None
    return _Known(states[0].mean + states[1].mean)


RULES: Mapping[str, Rule] = {
    "Relu": _relu,
    "Clip": _clip,
    "Min": _bound,
    "Max": _bound,
    "Identity": _same,
    "Dropout": _same,
    "AveragePool": _average,
    "GlobalAveragePool": _average,
    "ReduceMean": _average,
    "Flatten": _flat,
    "Reshape": _flat,
    "Squeeze": _flat,
    "Add": _sum,
}
