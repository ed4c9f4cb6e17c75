"""What every network has to come through: opened, calibrated, quantized, exported, and held against what it was.

`deliver` runs the whole path and checks what holds for any network: each node is in integers or float with a reason,
the file passes the checker, the engine agrees with the simulation, and the outputs are close to the float ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitwright.calib import MeanMinMax, MinMaxRange
from bitwright.engine.network import quantize_network
from bitwright.evaluate.operators import operators_of
from bitwright.execute import openvino_session
from bitwright.execute.onnx_profile import OnnxSession, executed
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.execute.openvino_session import OpenVinoSession
from bitwright.export.onnx_qdq import export_qdq
from bitwright.recipe.network import find_network_recipe, plan_network
from bitwright.recipe.targets import TARGETS
from bitwright.store.network_artifact import read_manifest
from bitwright.store.onnx_source import OnnxSource, read_model
from bitwright.store.sample_set import Samples, stacking_of
from here import ONNX_RUNTIME, OPENVINO

Feed = dict[str, Tensor]
RANGES = (MinMaxRange(), MeanMinMax())  # quick ones; two, so that they are judged
ENGINE_AGREES = 25.0  # dB; an engine rounds a few codes the other way, and rounding noise passes on from there


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came of it. `quality`: dB of each output, the worst batch of it, against the float network."""

    manifest: Mapping[str, Any]
    quality: Mapping[str, float]
    ops: Mapping[str, str]

    @property
    def floats(self) -> dict[str, set[str]]:
        """By operator that stayed float, the reasons."""
        found: dict[str, set[str]] = {}
        for name, reason in self.manifest["float"].items():
            found.setdefault(self.ops[name], set()).add(reason)
        return found

    def integer(self, *ops: str) -> bool:
        """Whether all of these operators run in integers, wherever they are."""
        return not any(self.ops[name] in ops for name in self.manifest["float"])


def samples_of(source: OnnxSource, sample: Callable[[int], Feed] | Sequence[Feed], count: int) -> Samples:
    """These samples, or `count` that the function makes, each from its own seed."""
    network = source.network()
    stacking = stacking_of([network.values[name] for name in network.inputs])

    def read(index: int) -> tuple[str, Feed]:
        torch.manual_seed(1000 + index)
        return f"sample {index}", sample(1) if callable(sample) else sample[index]

    return Samples(count if callable(sample) else len(sample), "given", stacking, read)


def deliver(
    source: OnnxSource,
    sample: Callable[[int], Feed] | Sequence[Feed],
    folder: Path,
    target: str = ONNX_RUNTIME,
    least: float = 20.0,
    count: int = 16,
    agrees: float = ENGINE_AGREES,
) -> Delivered:
    """The whole path on samples, which a function may make.

    `least`: dB of every output against the float network; `agrees`: of the engine against the simulation.
    """
    samples = samples_of(source, sample, count)
    recipe = replace(find_network_recipe("int8", target), ranges=RANGES, relief=False)  # all that can runs in integers
    held = quantize_network(source, recipe, folder / target, samples)
    for name in TARGETS:
        plan_network(held.source.network(), find_network_recipe("int8", name))
    file = folder / f"{target}.onnx"
    export_qdq(held, file)
    is_openvino = target == OPENVINO and openvino_session.is_installed()
    engine = OpenVinoSession(file, 1, "f32") if is_openvino else OnnxSession(file, 1)
    simulation, original = OnnxRunner(read_model(file), folder, exact=True), OnnxRunner(source)
    quality: dict[str, float] = {}
    for batch in list(samples.batches(8))[:2]:
        wanted, simulated, made = original.run(batch), simulation.run(batch), engine.run(batch)
        for name in (name for name, value in wanted.items() if value.is_floating_point()):
            agreement = decibels(simulated[name], made[name])
            assert agreement > agrees, f"{name}: the engine is {agreement:.1f} dB from the simulation"
            quality[name] = min(quality.get(name, 999.0), decibels(wanted[name], made[name]))
    assert all(found >= least for found in quality.values()), f"{quality} dB against the float network"
    if not is_openvino:
        assert operators_of(executed(file, next(iter(samples.batches(8))), 1))
    manifest = read_manifest(folder / target)
    ops = {node.name: node.op for node in held.source.network().nodes}
    assert ops.keys() == manifest["roles"].keys() | manifest["float"].keys()
    assert all(manifest["float"].values())
    return Delivered(manifest, quality, ops)


def decibels(wanted: Tensor, found: Tensor) -> float:
    """Signal over noise; 999 for none."""
    exact = wanted.double()
    noise = float((exact - found.double()).square().sum())
    if noise == 0:
        return 999.0
    return float(10 * torch.log10(exact.square().sum() / noise))
