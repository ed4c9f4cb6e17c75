"""Bias correction: rounding a weight shifts the mean of what it makes, and a bias can take that shift back.

With e the rounding error of the weight, the output of a linear operator moves on average by e summed over what it
reads, times the mean of that. The mean is known in two ways: from what BatchNormalization knew, through ReLU and clips
in closed form, with no data at all; or by measuring outputs of the original and the quantized network on calibration
data, operator by operator in running order, each with those before it already corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.graph.linear_node import LinearNode, linear_of
from bitwright.graph.network import Network
from bitwright.transforms.biases import biased_value, own_bias
from bitwright.transforms.transform import Edit, plus

Channels = Float[Tensor, "outputs"]
State = tuple[Network, Mapping[str, Tensor]]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Shift:
    """By how much the mean of each output channel is off (quantized minus original), and the original's deviation."""

    mean: Channels
    deviation: Channels

    def believed(self, limit: float) -> Channels:
        """The shift, with zero for channels where it is above `limit` deviations.

        A channel is measured against its own deviation or the root mean square over channels, whichever is larger: a
        channel that hardly moves is still worth correcting. A shift far beyond that is no rounding error but a sign
        that something else is wrong, which a bias would only hide.
        """
        typical = self.deviation.double().square().mean().sqrt()
        allowed = limit * torch.maximum(self.deviation.double(), typical)
        sound = torch.isfinite(self.mean) & (self.mean.double().abs() <= allowed)
        return torch.where(sound, self.mean.double(), 0.0)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What was done at one linear operator. `shift`: what was taken off its bias, or would have been.

    `value`: the value that its bias is part of, which is what it makes, or what the Add behind a MatMul makes.
    `left`: channels whose shift was not believed. `kept`: whether it was corrected; it is not where `shift` is zero.
    """

    value: str
    shift: Channels
    left: int
    kept: bool


@final
@dataclass(frozen=True, slots=True, eq=False)
class Corrected:
    """The network and constants afterwards, the edit that led there, and what was done operator by operator."""

    network: Network
    constants: Mapping[str, Tensor]
    edit: Edit
    corrections: tuple[Correction, ...]


def linear_nodes(network: Network) -> Iterator[LinearNode]:
    """All linear operators with constant weights, in running order."""
    for node in network.nodes:
        if found := linear_of(network, node):
            yield found


def expected_shift(
    linear: LinearNode, weight: Tensor, rounded: Tensor, mean: Float[Tensor, "inputs"]
) -> Float[Tensor, "outputs"]:
    """By how much rounding moves the mean of each output channel, for an input of this mean per channel.

    Source: Nagel 2019 (Data-free quantization), section 4.2. Borders that are padded are counted as if they were not.
    """
    return linear.respond(rounded.double() - weight.double(), mean)


def bias_edit(network: Network, constants: Mapping[str, Tensor], linear: LinearNode, offset: Channels) -> Edit:
    """The edit that adds an offset to the bias of an operator, which gets one of its own if it has none."""
    edit, bias = own_bias(network, constants, linear)
    return edit.then(Edit((plus(bias, offset),)))


def correct_analytically(
    network: Network,
    constants: Mapping[str, Tensor],
    rounded: Mapping[str, Tensor],
    means: Mapping[str, Float[Tensor, "inputs"]],
) -> Corrected:
    """Correct every operator whose input's mean is known (see `expected_means`), without data.

    `constants` are the original ones, and those handed back have the original weights and corrected biases; `rounded`
    has weights as they are after rounding, by name, those that are rounded.
    """
    edit = Edit()
    done: list[Correction] = []
    for linear in list(linear_nodes(network)):
        mean = means.get(linear.node.inputs[0])
        if mean is None or linear.weight not in rounded:
            continue
        shift = expected_shift(linear, constants[linear.weight], rounded[linear.weight], mean)
        value = biased_value(network, linear)
        step = bias_edit(network, constants, linear, -shift)
        network, constants = step.apply(network, constants)
        edit = edit.then(step)
        done.append(Correction(value, shift, 0, bool((shift != 0).any())))
    return Corrected(network, constants, edit, tuple(done))


def correct_empirically(
    network: Network,
    constants: Mapping[str, Tensor],
    measure: Callable[[State, str], Shift | None],
    keep: Callable[[State, State, str], bool],
    limit: float = 4.0,
) -> Corrected:
    """Correct every operator in running order by what is measured, each after those before it.

    `measure(state, value)` says by how much that value is off in the network as it is now; None leaves it alone. The
    value exists under its name in the original network and in every later one.
    `keep(before, after, value)` decides, with both networks at hand, whether the correction of that value helps.
    """
    edit = Edit()
    done: list[Correction] = []
    for linear in list(linear_nodes(network)):
        value = biased_value(network, linear)
        measured = measure((network, constants), value)
        if measured is None:
            continue
        shift = measured.believed(limit)
        left = int((shift != measured.mean.double()).sum())
        kept = False
        if bool((shift != 0).any()):
            step = bias_edit(network, constants, linear, -shift)
            after = step.apply(network, constants)
            if kept := keep((network, constants), after, value):
                network, constants = after
                edit = edit.then(step)
        done.append(Correction(value, shift, left, kept))
    return Corrected(network, constants, edit, tuple(done))
