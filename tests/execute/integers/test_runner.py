"""Whole files on codes: equal to ONNX Runtime bit for bit, and near the simulation that calibration uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnx import TensorProto, numpy_helper

from bitwright.execute.integers import IntegerRunner
from bitwright.execute.onnx_runner import OnnxRunner, RunError
from bitwright.numerics.machine import this_machine
from bitwright.recipe.targets import TARGETS
from bitwright.store.onnx_source import read_model
from execute.integers.qdq_files import MAKERS, QdqFile, in_onnx_runtime

VNNI = TARGETS["x86-vnni"].arithmetic
HERE = this_machine()
needs_vnni = pytest.mark.skipif(not HERE.has_vnni, reason="codes are compared with ONNX Runtime on x86 with VNNI")


@needs_vnni
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", MAKERS)
def test_every_code_is_the_one_that_onnx_runtime_makes(tmp_path: Path, kind: str, seed: int, is_signed: bool) -> None:
    made = MAKERS[kind](seed, is_signed)
    path = made.save(tmp_path / "one.onnx")
    runner = IntegerRunner(path, VNNI)
    assert len(runner.fused) == 1
    found = next(iter(runner.run(made.feeds).values()))
    assert torch.equal(found, in_onnx_runtime(path, made.feeds))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", MAKERS)
def test_one_operator_is_at_most_one_code_from_the_simulation_in_floats(
    tmp_path: Path, kind: str, seed: int, target: str
) -> None:
    """The bound between what decisions are made on and what a device computes, where nothing saturates.

    Both round once, from numbers that differ in the last bits of float32: only a value on the edge of two codes moves.
    """
    made = MAKERS[kind](seed, TARGETS[target].is_signed)
    path = half_range(made).save(tmp_path / "one.onnx")
    runner = IntegerRunner(path, TARGETS[target].arithmetic)
    (found,) = runner.run(made.feeds).values()
    (fake,) = OnnxRunner(read_model(path), tmp_path, exact=True).run(made.feeds).values()
    last = runner.network.nodes[-1]
    if last.op != "DequantizeLinear":
        assert torch.allclose(found, fake, rtol=1e-5, atol=1e-5 * float(fake.abs().max()))
        return
    codes = ((found - fake) / runner.constants[last.inputs[1]]).round().abs()
    assert int(codes.max()) <= 1 and int((codes > 0).sum()) <= max(1, 0.002 * codes.numel())


def half_range(made: QdqFile) -> QdqFile:
    """The file with weights of 7 bits."""
    for held in made.stored:
        if held.data_type == TensorProto.INT8 and len(held.dims) > 1:
            codes = numpy_helper.to_array(held).clip(-64, 63)
            held.CopyFrom(numpy_helper.from_array(codes, held.name))
    return made


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    made = MAKERS["convolution"](0, False)
    runner = IntegerRunner(made.save(tmp_path / "one.onnx"), VNNI)
    with pytest.raises(RunError, match="x0: an input of the network that the feeds lack"):
        runner.run({})
