"""High-bias absorption: moves the part of an activation that is always there into the bias of what reads it.

Equalization can leave channels with a large bias, which widens the range of the activation for nothing. By what
BatchNormalization knew, a channel is above c = max(0, mean - 3 deviations) almost surely; then relu(x - c) =
relu(x) - c, so c may be taken off before the ReLU and its effect added behind the next linear operator. Unlike a
scale this is not exact: it fails where x < c, and where the reader pads with zeros, which would have to become -c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from bitwright.graph.channels import Site
from bitwright.graph.linear_node import LinearNode, linear_of
from bitwright.graph.network import Network, Node
from bitwright.transforms.biases import own_bias
from bitwright.transforms.equalize import Scale, spread
from bitwright.transforms.moments import Moments
from bitwright.transforms.transform import Edit, plus

MOVES = {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Split"}
MEANS = {"MaxPool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMean", "ReduceMax", "ReduceMin", "Concat"}
BENDS = {"Relu", "Min"}


@final
@dataclass(frozen=True, slots=True, eq=False)
class Absorbed:
    """What absorption at one site comes to. `amount`: what each channel loses; zero throughout where nothing is done.

    `reason`: why nothing is done, empty otherwise. `moments`: those of the site afterwards.
    """

    edit: Edit
    amount: Scale
    moments: Moments
    reason: str = ""


@final
@dataclass(frozen=True, slots=True)
class Absorb:
    """Take off what is at least `deviations` below the mean. Without a ReLU on the way the whole mean goes.

    `across_padding`: also where a reader pads with zeros; its borders then come out wrong by what the padded positions
    would have added, so the caller has to measure that it pays.

    Source: Nagel 2019 (Data-free quantization), section 4.1.3. Differs: readers that pad are left unless asked for.
    """

    deviations: float = 3.0
    across_padding: bool = False

    def plan(
        self, network: Network, constants: Mapping[str, Tensor], site: Site, moments: Mapping[str, Moments]
    ) -> Absorbed:
        """The edit for one site; the moments must be those of the network as it is now."""
        nothing = torch.zeros(site.channels, dtype=torch.float64)
        if site.value not in moments:
            return Absorbed(Edit(), nothing, Moments(nothing, nothing), "no BatchNormalization tells its mean")
        known = moments[site.value]
        source = linear_of(network, network.producers[site.value])
        reason = _obstacle(network, site, source, self.across_padding)
        if reason or source is None:
            return Absorbed(Edit(), nothing, known, reason)
        amount = known.mean
        if any(node.op in BENDS for node in site.between):
            amount = (known.mean - self.deviations * known.deviation).clamp_min(0)
        if not bool((amount != 0).any()):
            return Absorbed(Edit(), nothing, known, "no channel is above zero throughout")
        edit, bias = own_bias(network, constants, source)
        own = {bias, source.bias}
        bounds = [plus(tie.constant, -spread(amount, tie.index, 0.0)) for tie in site.shifts if tie.constant not in own]
        edit = edit.then(Edit((plus(bias, -amount), *bounds)))
        for tie in site.sinks:
            now, numbers = edit.apply(network, constants)
            reader = linear_of(now, now.readers(tie.constant)[0][0])
            assert reader is not None
            effect = reader.summed(constants[tie.constant].double() * spread(amount, tie.index, 0.0))
            step, name = own_bias(now, numbers, reader)
            edit = edit.then(step).then(Edit((plus(name, effect),)))
        return Absorbed(edit, amount, known.shifted(-amount))


def _obstacle(network: Network, site: Site, source: LinearNode | None, across_padding: bool) -> str:
    """Why nothing can be taken off here; empty if something can."""
    if source is None:
        return "it is not made by a linear operator"
    for node in site.between:
        if node.op not in MOVES | MEANS | BENDS and not _is_plain_average(node):
            return f"{node.op} ({node.outputs[0]}) does not pass a constant on"
    for tie in site.sinks:
        reader = network.readers(tie.constant)[0][0]
        if _pads(reader) and not across_padding:
            return f"{reader.op} ({reader.outputs[0]}) pads it with zeros"
    return ""


def _is_plain_average(node: Node) -> bool:
    """An average over positions that are all really there."""
    if node.op != "AveragePool":
        return False
    return not node.attributes.get("count_include_pad", 0)


def _pads(node: Node) -> bool:
    if node.op == "ConvTranspose":
        return True  # its borders get fewer contributions
    return any(node.attributes.get("pads", ())) or node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
