"""PRelu in parts: the same numbers, bit for bit, in onnx's reference evaluator and in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.engine.prepare import without_trials
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.recipe.network import int8
from bitwright.transforms import slopes_in_parts
from conformance.networks import Sketch, run
from networks import exported


@pytest.mark.parametrize("shape", [(4, 1, 1), (1,), (4, 5, 5), (1, 4, 1, 1)])
def test_slopes_up_to_one_become_a_product_and_a_maximum(shape: tuple[int, ...]) -> None:
    s = Sketch()
    slopes = torch.rand(shape, dtype=torch.float64) * 2 - 1
    slopes.view(-1)[0] = 1.0
    network, constants = s.done(s.add("PRelu", s.input(2, 4, 5, 5), s.constant(slopes)))
    after, numbers = slopes_in_parts(network, constants).apply(network, constants)
    assert [node.op for node in after.nodes] == ["Mul", "Max"]
    feeds = {"q": torch.randn(2, 4, 5, 5, dtype=torch.float64)}
    assert torch.equal(run(after, numbers, feeds)[0], run(network, constants, feeds)[0])


def test_larger_slopes_become_a_sum() -> None:
    s = Sketch()
    slopes = torch.tensor([[[0.1]], [[1.5]], [[-0.3]], [[7.0]]], dtype=torch.float64)
    network, constants = s.done(s.add("PRelu", s.input(2, 4, 5, 5), s.constant(slopes)))
    after, numbers = slopes_in_parts(network, constants).apply(network, constants)
    assert [node.op for node in after.nodes] == ["Relu", "Min", "Mul", "Sum"]
    feeds = {"q": torch.randn(2, 4, 5, 5, dtype=torch.float64)}
    assert torch.equal(run(after, numbers, feeds)[0], run(network, constants, feeds)[0])


@pytest.mark.parametrize("slope", [float("inf"), float("nan")])
def test_slopes_that_are_no_numbers_stay(slope: float) -> None:
    s = Sketch()
    network, constants = s.done(s.add("PRelu", s.input(2, 4, 5, 2), s.constant(torch.tensor([0.1, slope]).double())))
    assert slopes_in_parts(network, constants).steps == ()


@pytest.mark.parametrize("target", ["x86-vnni", "openvino"])
def test_onnx_runtime_gets_it_and_computes_the_same(tmp_path: Path, target: str) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.PReLU(8, 0.2), torch.nn.Conv2d(8, 4, 3)).eval()
    module.inputs = ((3, 9, 9),)  # type: ignore[assignment]
    source = exported(module, tmp_path)
    after = without_trials(source, int8(target), tmp_path)
    ops = {node.op for node in after.network().nodes}
    assert ("PRelu" in ops) is (target == "openvino")
    feeds = {source.network().inputs[0]: torch.randn(2, 3, 9, 9)}
    (found,), (wanted,) = OnnxRunner(after).run(feeds).values(), OnnxRunner(source).run(feeds).values()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
