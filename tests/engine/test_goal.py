"""Goals for the outputs: met with as few operators in float as it takes, told apart from what cannot be met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bitwright.calib import LeastEffect, MinMaxRange
from bitwright.engine.goal import LeastSqnr
from bitwright.engine.network import quantize_network
from bitwright.engine.progress import Step
from bitwright.engine.simulate import Simulation
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.recipe.network import NetworkRecipe, int8, w8a16
from bitwright.store.network_artifact import open_network, read_manifest
from bitwright.store.onnx_source import OnnxSource
from engine.tiny_network import model, samples_of

PLAIN = replace(int8(), relief=False, ranges=(MinMaxRange(),))


def made(source: OnnxSource, recipe: NetworkRecipe, out: Path, goal: Any = None) -> dict[str, Any]:
    """The manifest of a run."""
    quantize_network(source, recipe, out, samples_of(source), goal=goal)
    return dict(read_manifest(out))


def found(manifest: Mapping[str, Any]) -> float:
    return float(manifest["goal"]["rounds"][-1]["found"][0])


def in_float(manifest: Mapping[str, Any]) -> int:
    return int(manifest["goal"]["rounds"][-1]["float"])


def sqnr_of(source: OnnxSource, out: Path) -> float:
    """Of the outputs of an artifact on all samples, the mean of noise over signal of each: written anew."""
    feeds = samples_of(source).first(16)
    wanted, got = OnnxRunner(source).run(feeds), Simulation.of(open_network(out)).run(feeds)
    rates = []
    for name, value in wanted.items():
        noise = (got[name] - value).double().square().flatten(1).sum(1)
        rates.append(noise / value.double().square().flatten(1).sum(1))
    return float(-10 * torch.cat(rates).mean().log10())


@pytest.fixture
def source(tmp_path: Path) -> OnnxSource:
    return OnnxSource.open(model(tmp_path))


def test_a_goal_is_met_and_costs_operators(source: OnnxSource, tmp_path: Path) -> None:
    first = found(made(source, replace(PLAIN, min_sqnr=0.1), tmp_path / "any"))
    near, far = first + 2, first + 5
    one = made(source, replace(PLAIN, min_sqnr=near), tmp_path / "near")
    two = made(source, replace(PLAIN, min_sqnr=far), tmp_path / "far")
    assert one["goal"]["is_met"] and two["goal"]["is_met"] and found(one) >= near and found(two) >= far
    assert 0 < in_float(one) < in_float(two) < len(source.network().nodes)
    assert one["goal"]["goals"] == [{"min_sqnr": near}]
    for manifest in (one, two):
        relieved = {node for step in manifest["relief"] for node in step["nodes"]}
        assert len(relieved) == in_float(manifest) and relieved <= manifest["float"].keys()
    # what was found is what the artifact does, up to its biases, which are stored in float
    assert sqnr_of(source, tmp_path / "far") >= far - 0.1


def test_a_goal_that_is_met_already_changes_nothing(source: OnnxSource, tmp_path: Path) -> None:
    plain, asked = tmp_path / "plain", tmp_path / "asked"
    before = made(source, PLAIN, plain)
    after = made(source, replace(PLAIN, min_sqnr=1.0), asked)
    assert after["goal"]["is_met"] and len(after["goal"]["rounds"]) == 1 and in_float(after) == 0
    assert before["goal"] is None and before["digests"] == after["digests"]


def test_a_goal_that_cannot_be_met_is_said(source: OnnxSource, tmp_path: Path) -> None:
    manifest = made(source, replace(PLAIN, min_sqnr=300.0), tmp_path / "out")
    assert not manifest["goal"]["is_met"] and found(manifest) < 300
    figures = [round_["found"][0] for round_ in manifest["goal"]["rounds"]]
    assert figures[-1] == max(figures) and manifest["roles"]


@dataclass(frozen=True)
class Wayward:
    """A goal that is missed by less and less, and then by more."""

    misses: tuple[float, ...] = (8.0, 2.0, 4.0, 6.0)
    seen: list[float] = field(default_factory=list)

    @property
    def told(self) -> Mapping[str, Any]:
        return {"metric": "wayward", "max_drop": 1.0}

    def figure(self, noise: float, network: Simulation) -> float:
        self.seen.append(noise)
        return self.misses[len(self.seen) - 1]

    def excess(self, figure: float) -> float:
        return figure


def test_what_comes_nearest_is_taken(source: OnnxSource, tmp_path: Path) -> None:
    manifest = made(source, PLAIN, tmp_path / "out", Wayward())
    rounds = manifest["goal"]["rounds"]
    assert not manifest["goal"]["is_met"] and manifest["goal"]["taken"] == 1 and len(rounds) > 2
    relieved = {node for step in manifest["relief"] for node in step["nodes"]}
    assert len(relieved) == rounds[1]["float"] < rounds[2]["float"]


def test_where_no_activation_is_in_codes_a_goal_is_only_held_against(source: OnnxSource, tmp_path: Path) -> None:
    manifest = made(source, replace(w8a16(), min_sqnr=200.0), tmp_path / "out")
    assert not manifest["goal"]["is_met"] and len(manifest["goal"]["rounds"]) == 1


@dataclass(frozen=True)
class LeastNoise:
    """A goal like a user's metric: it runs the network itself."""

    most: float
    feeds: Mapping[str, torch.Tensor]
    wanted: Mapping[str, torch.Tensor]

    @property
    def told(self) -> Mapping[str, Any]:
        return {"metric": "noise", "max_drop": self.most}

    def figure(self, noise: float, network: Simulation) -> float:
        got = network.run(self.feeds)
        return max(float((got[name] - value).abs().max()) for name, value in self.wanted.items())

    def excess(self, figure: float) -> float:
        return figure / self.most


def test_a_goal_may_run_the_network_itself_and_both_kinds_go_together(source: OnnxSource, tmp_path: Path) -> None:
    feeds = samples_of(source).first(8)
    goal = LeastNoise(1e9, feeds, OnnxRunner(source).run(feeds))
    loose = made(source, PLAIN, tmp_path / "loose", goal)
    assert loose["goal"]["is_met"] and in_float(loose) == 0
    tight = made(source, PLAIN, tmp_path / "tight", replace(goal, most=found(loose) / 3))
    assert tight["goal"]["is_met"] and in_float(tight) > 0 and found(tight) <= found(loose) / 3
    both = made(source, replace(PLAIN, min_sqnr=1.0), tmp_path / "both", replace(goal, most=found(loose) / 3))
    assert [len(round_["found"]) for round_ in both["goal"]["rounds"]] == [2] * len(both["goal"]["rounds"])
    assert both["relief"] == tight["relief"]


def test_a_goal_needs_samples(source: OnnxSource, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seen on samples"):
        quantize_network(source, replace(w8a16(), min_sqnr=30.0), tmp_path / "out", None)


@pytest.mark.parametrize("stopped_at", [1, 2])
def test_a_run_that_was_stopped_on_the_way_ends_with_the_same_bytes(
    stopped_at: int, source: OnnxSource, tmp_path: Path
) -> None:
    recipe = replace(PLAIN, min_sqnr=51.0, ranges=(LeastEffect(),))  # gradients are there
    whole = made(source, recipe, tmp_path / "whole")
    assert len(whole["goal"]["rounds"]) == 2

    def stop(step: Step) -> None:
        if (step.what, step.done) == ("goal", stopped_at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_network(source, recipe, tmp_path / "out", samples_of(source), stop)
    assert made(source, recipe, tmp_path / "out") == whole


def test_decibels_tell_how_much_noise_is_too_much() -> None:
    goal = LeastSqnr(30.0)
    assert goal.excess(20.0) == pytest.approx(10) and goal.excess(30.0) == pytest.approx(1) and goal.excess(33.0) < 1
