"""Trained networks through the whole path on their own calibration data: what is delivered is close to the original.

The zoo's evaluation splits are not read here; `benchmarks/vision.py` scores on those.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from bitwright.graph.onnx import inner_nodes
from bitwright.store.module_source import source_of
from bitwright.store.network_source import open_network
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.samples import read_samples
from families.deliver import Delivered, deliver

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loaders(zoo: Path) -> ModuleType:
    """The zoo's module of loaders, which needs pillow."""
    pytest.importorskip("PIL")
    spec = importlib.util.spec_from_file_location("zoo", zoo / "zoo.py")
    assert spec is not None and spec.loader is not None
    sys.modules["zoo"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inputs_of(name: str, loaders: ModuleType, count: int) -> tuple[Tensor, ...]:
    """Calibration samples of a module of the zoo, spread over what there is."""
    if name == "vdsr":
        return (loaders.luma_calibration(2, count, 32),)
    splits = {
        "mobilenet_v2": loaders.imagenet,
        "resnet20": loaders.cifar10,
        "dscnn": loaders.keywords,
        "ddpm_mnist": loaders.mnist_test,
    }
    split = splits[name]("calibration")
    places = [index * len(split) // count for index in range(count)]
    inputs: Tensor = split.prepare(split.inputs[places])
    return (inputs,) if name != "ddpm_mnist" else stratified(inputs, loaders.signal_shares())


def stratified(pictures: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures with noise as training adds it, their steps spread evenly over all there are."""
    count, draws = len(pictures), torch.Generator().manual_seed(0)
    steps = (torch.arange(count) * len(shares) // count)[torch.randperm(count, generator=draws)]
    share = shares[steps].reshape(-1, 1, 1, 1)
    return share.sqrt() * pictures + (1 - share).sqrt() * torch.randn(pictures.shape, generator=draws), steps


# Name, samples, and dB of the output against float at the least.
MODULES = {"mobilenet_v2": (16, 12.0), "resnet20": (64, 25.0), "dscnn": (64, 26.0), "vdsr": (16, 30.0)}


def delivered(name: str, count: int, least: float, loaders: ModuleType, folder: Path) -> Delivered:
    held = inputs_of(name, loaders, count)
    source = source_of(vars(loaders)[name](), name, tuple(x[:2] for x in held), folder)
    inputs = source.network().inputs
    feeds = iter([dict(zip(inputs, (x[i : i + 1] for x in held), strict=True)) for i in range(count)])
    rows = list(feeds)
    return deliver(source, rows, folder, least=least)


@pytest.mark.parametrize("name", MODULES)
def test_a_trained_convolutional_network_is_delivered(name: str, loaders: ModuleType, tmp_path: Path) -> None:
    found = delivered(name, *MODULES[name], loaders, tmp_path)
    assert found.integer("Conv", "Gemm", "MatMul"), found.floats


def test_a_diffusion_network_is_delivered_with_steps_from_all_of_its_range(loaders: ModuleType, tmp_path: Path) -> None:
    found = delivered("ddpm_mnist", 64, 20.0, loaders, tmp_path)
    assert found.integer("Conv", "Gemm", "MatMul"), found.floats


def test_a_sentence_encoder_is_delivered(loaders: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import AutoTokenizer

    try:
        folder = loaders.minilm_path()
    except loaders.NotAvailable as missing:
        pytest.skip(str(missing))
    source = open_network(str(folder), tmp_path / "source")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(text for pair in loaders.sts(2012)[:16] for text in pair[:2]))
    network = source.network()
    values = [network.values[name] for name in network.inputs]
    samples = read_samples(texts, values, 16, AutoTokenizer.from_pretrained(folder), 32)
    rows = [feed for batch in samples.batches(1) for feed in [batch]]
    found = deliver(
        source, rows, tmp_path, least=10.0, agrees=18.0
    )  # coarse steps: a code that falls otherwise is heard
    assert found.integer("Gemm"), found.floats


def test_a_recurrent_detector_in_subgraphs_stays_float_there_and_says_so(loaders: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    source = OnnxSource.open(loaders.silero_onnx_path())
    sound = torch.from_numpy(loaders.audio("test")).float()
    rows = []
    for index in range(16):
        window = sound[index * 16000 : index * 16000 + 576][None]
        rows.append({"input": window, "state": torch.zeros(2, 1, 128), "sr": torch.tensor(16000)})
    names = source.network().inputs
    found = deliver(source, [{name: row[name] for name in names} for row in rows], tmp_path, least=5.0)
    held = {node.op_type for node, _ in inner_nodes(source.model())}
    assert held, "the model has no subgraphs any more: this test needs another"
    assert any("subgraph" in reason for reasons in found.floats.values() for reason in reasons), found.floats
