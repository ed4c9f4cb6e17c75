"""Tries every proposed site on numbers before it is used: a scale that moves the output is rejected and reported.

The rules that find sites know what operators do; this knows nothing of them. Each site gets a random positive scale,
the network runs in float64, and the outputs are compared with those of the network as it was. All sites are tried at
once, and halved where the output moved, until each wrong one stands alone: proving a sound network costs two runs.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from bitwright.graph.channels import Refusal, Site, Tie
from bitwright.graph.network import Network, Node, Scalar

Evaluate = Callable[[Sequence[Node], Mapping[str, Tensor], Sequence[str]], Mapping[str, Tensor]]
TOLERANCE = 1e-10  # of the largest number of each output; float64 rounding stays below 1e-13 on deep networks
SPREAD = 8.0  # scales are between 1 / SPREAD and SPREAD
FLOAT_TYPES = (1, 10, 16)  # ONNX's numbers for float32, float16 and bfloat16
DOUBLE = 11


@final
@dataclass(frozen=True, slots=True)
class Proved:
    """Sites under which the outputs stayed, and those that were rejected, each with how far they moved."""

    sites: tuple[Site, ...]
    rejected: tuple[Refusal, ...]


def prove(
    network: Network,
    constants: Mapping[str, Tensor],
    sites: Sequence[Site],
    batch: Mapping[str, Tensor],
    evaluate: Evaluate,
    seed: int = 0,
) -> Proved:
    """Try each site on one batch of inputs. `evaluate(nodes, values, wanted)` runs nodes on float64 tensors.

    Raises ValueError if the network gives numbers that are not finite on this batch: then nothing can be compared.
    """
    trial = _Trial(network, doubled(constants), doubled(batch), evaluate, seed)
    moved = trial.moved_by(sites)
    rejected = tuple(
        Refusal(site.value, f"its output moved by {moved[site.value]:.1e} of the largest number under a random scale")
        for site in sites
        if site.value in moved
    )
    return Proved(tuple(site for site in sites if site.value not in moved), rejected)


def doubled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floats as float64; everything else as it is."""
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


class _Trial:
    """One network in float64 and what it gives out."""

    def __init__(
        self,
        network: Network,
        constants: dict[str, Tensor],
        batch: dict[str, Tensor],
        evaluate: Evaluate,
        seed: int,
    ) -> None:
        self._nodes = [_widened(node) for node in network.nodes]
        self._outputs, self._constants, self._batch = network.outputs, constants, batch
        self._evaluate, self._seed = evaluate, seed
        self._before = self._run(constants)
        for name, tensor in self._before.items():
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(
                    f"{name}: the network gives NaN or infinity in float64 on this batch; try other inputs"
                )

    def moved_by(self, sites: Sequence[Site]) -> dict[str, float]:
        """How far the outputs move, by the value of each site that moves them."""
        if not sites:
            return {}
        distance = self._distance(self._run(self._scaled(sites)))
        if distance <= TOLERANCE:
            return {}
        if len(sites) == 1:
            return {sites[0].value: distance}
        half = len(sites) // 2
        return self.moved_by(sites[:half]) | self.moved_by(sites[half:])

    def _run(self, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = {**constants, **self._batch}
        with torch.no_grad():
            return dict(self._evaluate(self._nodes, values, self._outputs))

    def _scaled(self, sites: Sequence[Site]) -> dict[str, Tensor]:
        """The constants with every site scaled, each by numbers of its own that do not depend on the others."""
        found = dict(self._constants)
        for site in sites:
            generator = torch.Generator().manual_seed(zlib.crc32(f"{self._seed} {site.value}".encode()))
            exponent = torch.rand(site.channels, generator=generator, dtype=torch.float64) * 2 - 1
            scale = torch.exp(exponent * math.log(SPREAD))
            for tie in (*site.sources, *site.shifts):
                found[tie.constant] = found[tie.constant] / _of_each(scale, tie)
            for tie in site.sinks:
                found[tie.constant] = found[tie.constant] * _of_each(scale, tie)
        return found

    def _distance(self, after: Mapping[str, Tensor]) -> float:
        found = 0.0
        for name, before in self._before.items():
            if not before.numel():
                continue
            difference = float((after[name].double() - before.double()).abs().max())
            size = float(before.double().abs().max())
            found = max(found, difference / size if size else difference)
            if math.isnan(difference):
                return math.inf
        return found


def _of_each(scale: Tensor, tie: Tie) -> Tensor:
    """The scale of every number of a constant, 1 where it belongs to no channel."""
    return torch.cat([scale, torch.ones(1, dtype=torch.float64)])[tie.index]


def _widened(node: Node) -> Node:
    """The node with float64 in the place of every shorter float that it names."""
    attributes = dict(node.attributes)
    if node.op == "Cast" and attributes.get("to") in FLOAT_TYPES:
        attributes["to"] = DOUBLE
    for key, value in attributes.items():
        if isinstance(value, Scalar) and value.dtype in ("float16", "float32", "bfloat16"):
            attributes[key] = Scalar(value.value, "float64")
    return replace(node, attributes=attributes)
