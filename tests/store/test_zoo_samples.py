"""Samples of the model zoo: pictures as its own loader prepares them, and calls of a recurrent network."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.network import Value
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.samples import read_samples

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def test_pictures_that_are_prepared_already_keep_every_pixel(zoo: Path, tmp_path: Path) -> None:
    """They have a shorter side of 256 as they lie there, so all that is left is to cut out the middle."""
    image = pytest.importorskip("PIL.Image", reason="Pillow (the extra `vision`) is not installed")
    with tarfile.open(zoo / "data" / "imagenet" / "pictures.tar") as archive:
        members = [member for member in archive if member.isfile()][:6]
        archive.extractall(tmp_path, members, filter="data")
    samples = read_samples(tmp_path, [Value("x", (None, 3, 224, 224), "float32")])
    assert samples.count == len(members)
    found = next(samples.batches(6))["x"]
    for index, row in enumerate(found):
        pixels = torch.from_numpy(np.array(image.open(samples.name(index)).convert("RGB")))
        middle = pixels[16:240, 16:240].to(torch.float64)
        torch.testing.assert_close(row.permute(1, 2, 0) * DEVIATION + MEAN, middle.to(torch.float32) / 255)


def test_a_recurrent_network_takes_one_call_at_a_time(zoo: Path, tmp_path: Path) -> None:
    source = OnnxSource.open(zoo / "models" / "silero_vad_16k_op15.onnx")
    network = source.network()
    inputs = [network.values[name] for name in network.inputs]
    sound = np.random.default_rng(0).normal(0, 0.1, (5, 1, 576)).astype(np.float32)
    np.savez(tmp_path / "a.npz", input=sound, state=np.zeros((5, 2, 1, 128), dtype=np.float32), sr=np.int64(16000))
    samples = read_samples(tmp_path / "a.npz", inputs)
    runner = OnnxRunner(source)
    outputs = [runner.run(call)[network.outputs[0]] for call in samples.batches(8)]
    assert [tuple(output.shape) for output in outputs] == [(1, 1)] * 5
    assert all(0 <= output.item() <= 1 for output in outputs)
