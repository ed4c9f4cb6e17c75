"""A tiny Llama with BookLlama's tokenizer, and runs of the command line on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner

from bitwright.cli.app import app
from networks import exported, network, sample

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 2000 tokens of a book."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text((ROOT / "examples" / "bookllama" / "heldout.txt").read_text(encoding="utf-8")[:8000])
    return path


def save_llama(folder: Path, **changes: Any) -> Path:
    """A random Llama of these sizes, with a tokenizer."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(
        **sizes | {"num_key_value_heads": 2, "vocab_size": 4096, "max_position_embeddings": 64} | changes
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(ROOT / "examples" / "bookllama" / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama."""
    return save_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def finished(model: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its 4-bit artifact."""
    out = tmp_path_factory.mktemp("made") / "artifact"
    found = call("quantize", model, "-r", "w4a16", "-c", text, "--samples", 8, "--length", 32, "-o", out)
    assert found.exit_code == 0, found.output
    return out


@pytest.fixture(scope="session")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small network with a residual block, and 24 samples."""
    folder = tmp_path_factory.mktemp("network")
    module = network("residual", 0)
    source = exported(module, folder, "residual")
    name = source.network().inputs[0]
    np.savez(folder / "samples.npz", **{name: sample(module, 24, 1)[0].numpy()})
    return source.path, folder / "samples.npz"


@pytest.fixture(scope="session")
def quantized(residual: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its 8-bit artifact, not verified; tests that write into it take a copy."""
    out = tmp_path_factory.mktemp("made") / "network"
    found = call("quantize", residual[0], "-r", "int8", "-c", residual[1], "-o", out, "--no-verify")
    assert found.exit_code == 0, found.output
    return out


Call = Callable[..., Any]


def call(*arguments: object) -> Any:
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """What stderr says of a command that must be refused."""
    found = call(*arguments)
    assert found.exit_code == 2, found.output
    assert "Traceback" not in found.output and not found.stdout
    return " ".join(found.stderr.split())
