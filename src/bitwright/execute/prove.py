"""Tries every proposed site on numbers before it is used: a scale that moves the output is rejected and reported.

The rules that find sites know what operators do; this knows nothing of them. Each site gets a random positive scale,
the network runs in float64, and the outputs are compared with those of the network as it was. All sites are tried at
once, and halved where the output moved, until each wrong one stands alone: proving a sound network costs two runs.

Where an operator cannot be run, what depends on it is left out, and the values that it reads are compared in the place
of outputs. A site with a constant in the part that was left out cannot be proved, so it is rejected, too.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from bitwright.execute.interpret import UnsupportedOperator, interpret
from bitwright.graph.channels import Refusal, Site, Tie
from bitwright.graph.network import Network, Node, Scalar

Evaluate = Callable[[Sequence[Node], Mapping[str, Tensor], Sequence[str]], Mapping[str, Tensor]]
Run = tuple[list[Node], list[str]]
TOLERANCE = 1e-10  # of the largest number of each output; float64 rounding stays below 1e-13 on deep networks
SPREAD = 8.0  # scales are between 1 / SPREAD and SPREAD
FLOAT_TYPES = (1, 10, 16)  # ONNX's numbers for float32, float16 and bfloat16
DOUBLE = 11


@final
@dataclass(frozen=True, slots=True)
class Proved:
    """Sites under which the outputs stayed, and those that were rejected, each with the reason."""

    sites: tuple[Site, ...]
    rejected: tuple[Refusal, ...]


def prove(
    network: Network,
    constants: Mapping[str, Tensor],
    sites: Sequence[Site],
    batch: Mapping[str, Tensor],
    evaluate: Evaluate = interpret,
    seed: int = 0,
) -> Proved:
    """Try each site on one batch of inputs. `evaluate(nodes, values, wanted)` runs nodes on float64 tensors.

    Raises ValueError if the network gives numbers that are not finite on this batch: then nothing can be compared.
    """
    trial = _Trial(network, doubled(constants), doubled(batch), evaluate, seed)
    reasons = trial.out_of_reach(sites)
    reasons |= trial.moved_by([site for site in sites if site.value not in reasons])
    rejected = tuple(Refusal(site.value, reasons[site.value]) for site in sites if site.value in reasons)
    return Proved(tuple(site for site in sites if site.value not in reasons), rejected)


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
        self._network, self._constants, self._batch = network, constants, batch
        self._evaluate, self._seed = evaluate, seed
        self._lacking: dict[str, str] = {}  # operators that cannot be run, by the value they make
        self._nodes, self._wanted, self._before = self._first_run()
        for name, tensor in self._before.items():
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(
                    f"{name}: the network gives NaN or infinity in float64 on this batch; try other inputs"
                )

    def out_of_reach(self, sites: Sequence[Site]) -> dict[str, str]:
        """Why sites cannot be tried, by their value."""
        read = {name for node in self._nodes for name in node.inputs}
        found = {}
        for site in sites:
            ties = (*site.sources, *site.shifts, *site.sinks)
            if not all(tie.constant in read for tie in ties):
                found[site.value] = f"it cannot be tried: {', '.join(self._lacking.values())} cannot be run in float64"
        return found

    def moved_by(self, sites: Sequence[Site]) -> dict[str, str]:
        """How far the outputs move, in words, by the value of each site that moves them."""
        if not sites:
            return {}
        distance = self._distance(self._run(self._nodes, self._wanted, self._scaled(sites)))
        if distance <= TOLERANCE:
            return {}
        if len(sites) == 1:
            return {sites[0].value: f"its output moved by {distance:.1e} of the largest number under a random scale"}
        half = len(sites) // 2
        return self.moved_by(sites[:half]) | self.moved_by(sites[half:])

    def _first_run(self) -> tuple[list[Node], list[str], dict[str, Tensor]]:
        """The nodes that can be run, the values where they end, and those values; found by trying."""
        while True:
            nodes, wanted = self._runnable()
            try:
                return nodes, wanted, self._run(nodes, wanted, self._constants)
            except UnsupportedOperator as lacking:
                name = next(output for output in lacking.node.outputs if output)
                assert name not in self._lacking
                self._lacking[name] = f"{lacking.node.op} ({lacking.node.name})"

    def _runnable(self) -> Run:
        """Nodes that depend on nothing that cannot be run, and the values that leave them."""
        left_out: set[str] = set()
        kept: list[Node] = []
        ends = set(self._network.outputs)
        for node in self._network.nodes:
            reads = {*node.inputs, *node.captures}
            if self._lacking.keys() & set(node.outputs) or left_out & reads:
                left_out |= set(filter(None, node.outputs))
                ends |= reads
            else:
                kept.append(_widened(node))
        made = [name for node in kept for name in node.outputs if name in ends]
        return kept, made

    def _run(self, nodes: list[Node], wanted: list[str], constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            return dict(self._evaluate(nodes, {**constants, **self._batch}, wanted))

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
