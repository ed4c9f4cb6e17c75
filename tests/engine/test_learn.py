"""Learned rounding in a run: better than the walk on samples nobody saw, and never kept where it is not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitwright.calib import MinMaxRange
from bitwright.engine.network import Step, quantize_network
from bitwright.engine.simulate import Simulation
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.numerics import AbsMax
from bitwright.recipe.forms import Activations
from bitwright.recipe.network import NetworkRecipe, w4a4, w4a8
from bitwright.solvers import Activation, AdaRound, BlockSolver, Brecq, Nearest, QDrop, Schedule
from bitwright.store.network_artifact import read_manifest
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.quantized import QuantizedNetwork, StoredWeight
from bitwright.store.sample_set import Samples, Stacking
from bitwright.store.torch_module import export_module
from networks import exported, network, sample

SCHEDULE = Schedule(steps=120)


def samples_for(name: str, source: OnnxSource, count: int = 128) -> Samples:
    held = dict(zip(source.network().inputs, sample(network(name), count, seed=3), strict=True))

    def read(index: int) -> tuple[str, dict[str, Tensor]]:
        return str(index), {key: value[index : index + 1] for key, value in held.items()}

    return Samples(count, "random", Stacking(True, None), read)


def noise(source: OnnxSource, quantized: QuantizedNetwork, name: str) -> float:
    """Noise over signal of the outputs on samples that no run saw."""
    feeds = dict(zip(source.network().inputs, sample(network(name), 64, seed=5), strict=True))
    wanted, found = OnnxRunner(source).run(feeds), Simulation.of(quantized).run(feeds)
    (key,) = wanted
    return float((found[key] - wanted[key]).square().sum() / wanted[key].square().sum())


@pytest.mark.parametrize("name", ["squeeze", "attention"])  # where inputs are white noise, nearest is best
@pytest.mark.parametrize("solver", [Brecq(SCHEDULE, point_rate=0.0), AdaRound(SCHEDULE)], ids=["block", "layer"])
def test_nearest_weights_of_few_bits_come_out_better(name: str, solver: BlockSolver, tmp_path: Path) -> None:
    source = exported(network(name), tmp_path)
    recipe = NetworkRecipe(weight_bits=3, edge_bits=3, activation_bits=8, solver=Nearest(AbsMax()))
    errors = []
    for one in (recipe, replace(recipe, learn=solver)):
        out = tmp_path / str(len(errors))
        errors.append(noise(source, quantize_network(source, one, out, samples_for(name, source)), name))
    learned = read_manifest(tmp_path / "1")["learned"]
    assert learned["kept"] and learned["output_noise"] < learned["output_noise_before"]
    assert all(part["after"] <= part["before"] for part in learned["segments"])
    assert errors[1] < errors[0]


@pytest.mark.parametrize("preset", [w4a8, w4a4])
def test_presets_learn_and_the_same_samples_make_the_same_bytes(
    preset: Callable[[], NetworkRecipe], tmp_path: Path
) -> None:
    source = exported(network("residual"), tmp_path)
    recipe = preset()
    assert isinstance(recipe.learn, Brecq | QDrop)
    recipe = replace(recipe, learn=replace(recipe.learn, schedule=Schedule(steps=20)))
    steps: list[Step] = []
    for out in ("one", "two"):
        quantize_network(source, recipe, tmp_path / out, samples_for("residual", source, 40), steps.append)
    for file in ("manifest.json", "weights.safetensors", "float.onnx"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    last = [step for step in steps if step.what == "learn"][-1]
    assert last.done == last.total
    told = [step.done for step in steps[: len(steps) // 2] if step.what == "learn"]
    assert told == sorted(told) and len(set(told)) > 10  # also while a segment is learned


def test_steps_of_activations_are_learned_and_stored(tmp_path: Path) -> None:
    """Min-max steps at 4 bits are so coarse that learning helps, whatever the machine."""
    source = exported(network("attention"), tmp_path)
    recipe = NetworkRecipe(weight_bits=4, activation_bits=4, edge_bits=4, ranges=(MinMaxRange(),))
    found = [
        quantize_network(source, replace(recipe, learn=learn), tmp_path / str(place), samples_for("attention", source))
        for place, learn in enumerate((None, QDrop(SCHEDULE, point_rate=0.01)))
    ]
    moved = [name for name in found[0].points if found[0].points[name].scale != found[1].points[name].scale]
    assert moved and read_manifest(tmp_path / "1")["learned"]["kept"]
    for name in moved:
        point = found[1].points[name]
        assert point.low is not None and point.high is not None
        assert point.high - point.low == pytest.approx(15 * point.scale, rel=1e-5)


def test_what_does_not_help_is_not_kept(tmp_path: Path) -> None:
    """A rate so large that roundings are as good as random."""
    source = exported(network("residual"), tmp_path)
    recipe = NetworkRecipe(weight_bits=4)
    wild = replace(recipe, learn=Brecq(Schedule(steps=2, checks=1), rate=1e4, bias_rate=10.0))
    plain = quantize_network(source, recipe, tmp_path / "plain", samples_for("residual", source))
    made = quantize_network(source, wild, tmp_path / "wild", samples_for("residual", source))
    assert not read_manifest(tmp_path / "wild")["learned"]["kept"]
    for name, weight in plain.weights.items():
        assert torch.equal(made.weights[name].qtensor.codes, weight.qtensor.codes)


def test_samples_that_cannot_share_a_batch_teach_nothing_and_the_manifest_says_so(tmp_path: Path) -> None:
    source = exported(network("residual"), tmp_path)
    alone = replace(samples_for("residual", source, 12), stacking=Stacking(False, None))
    quantize_network(source, NetworkRecipe(weight_bits=4, learn=Brecq(SCHEDULE)), tmp_path / "out", alone)
    assert read_manifest(tmp_path / "out")["learned"] == {
        "kept": False,
        "reason": "samples of this network cannot share a batch",
    }


def test_learning_with_dynamic_activations_is_refused() -> None:
    with pytest.raises(ValueError, match="not learned with dynamic activations"):
        NetworkRecipe(activations=Activations.DYNAMIC, learn=Brecq())


def test_a_small_layer_is_learned_nearly_as_well_as_the_best_of_all_its_roundings(tmp_path: Path) -> None:
    """Eight weights on inputs that go together: 256 roundings, each tried on the outputs, which are all far from 0."""
    generator = torch.Generator().manual_seed(8)
    module = torch.nn.Linear(8, 1).eval()
    with torch.no_grad():
        module.weight.copy_(torch.randn(1, 8, generator=generator))
        module.bias.fill_(30.0)
    inputs = torch.randn(512, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    source = OnnxSource.open(export_module(module, (inputs[:2],), tmp_path / "layer.onnx").path)
    (name,) = source.network().inputs
    samples = Samples(512, "mixed", Stacking(True, None), lambda at: (str(at), {name: inputs[at : at + 1]}))
    recipe = NetworkRecipe(edge_bits=3, solver=Nearest(AbsMax()), corrects_bias=False)
    learned = replace(recipe, learn=AdaRound(Schedule(steps=200, batch=64)))
    found = [
        quantize_network(source, one, tmp_path / str(place), samples) for place, one in enumerate((recipe, learned))
    ]
    wanted = inputs @ module.weight.detach().mT
    (start,), (weight,), (point,) = found[0].weights.values(), found[1].weights.values(), found[1].points.values()
    assert point.params is not None
    read = Activation(point.spec, point.params).apply(inputs)
    step = float(start.scale)
    below = (module.weight.detach()[0] / step).floor()
    tried = [(below + torch.tensor(up)).clamp(-4, 3) * step for up in itertools.product((0.0, 1.0), repeat=8)]
    best = min(float((read @ row[:, None] - wanted).square().mean()) for row in tried)

    def loss(held: StoredWeight) -> float:
        return float((read @ held.dequantize().reshape(8, 1) - wanted).square().mean())

    assert loss(weight) < loss(start)
    assert loss(weight) < 1.25 * best
