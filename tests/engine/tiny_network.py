"""A small network, and a run on it that goes through every phase in about two seconds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bitwright.calib import Auto, Average, LeastEffect, MinMaxRange
from bitwright.engine.network import quantize_network
from bitwright.engine.progress import OnStep, ignore
from bitwright.recipe.network import NetworkRecipe
from bitwright.solvers import QDrop, Schedule
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.quantized import QuantizedNetwork
from bitwright.store.sample_set import Samples, Stacking
from networks import exported, network

COUNT = 16
RECIPE = NetworkRecipe(
    weight_bits=4,
    activation_bits=4,
    ranges=(MinMaxRange(), Auto(average=Average.NOISE), LeastEffect()),
    equalize=True,
    absorb=True,
    smooth=(0.5,),
    relief=True,
    learn=QDrop(Schedule(steps=8, checks=1)),
)


def model(folder: Path, name: str = "residual") -> Path:
    """The ONNX file of a network."""
    return exported(network(name), folder).path


def samples_of(source: OnnxSource) -> Samples:
    """The same few samples for every run."""
    graph = source.network()
    noise = torch.Generator().manual_seed(3)
    shapes = {name: graph.values[name].shape or () for name in graph.inputs}
    held = {name: torch.randn(COUNT, *map(int, shape[1:]), generator=noise) for name, shape in shapes.items()}

    def read(index: int) -> tuple[str, dict[str, Tensor]]:
        return str(index), {name: values[index : index + 1] for name, values in held.items()}

    return Samples(COUNT, "random", Stacking(True, None), read)


def run(file: Path, out: Path, on_step: OnStep = ignore) -> QuantizedNetwork:
    """The command that all tests of resumption repeat."""
    source = OnnxSource.open(file)
    return quantize_network(source, RECIPE, out, samples_of(source), on_step)
