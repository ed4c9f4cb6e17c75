"""Folders with small random language models."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from store.small_models import GROUPED, save


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """An untied Llama in one file."""
    return save(tmp_path / "llama", transformers.LlamaConfig(**GROUPED))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A tied Llama in several files."""
    return save(tmp_path / "sharded", transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True), "20KB")


@pytest.fixture
def mixtral(tmp_path: Path) -> Path:
    """A mixture of four experts, each in files of its own."""
    return save(tmp_path / "mixtral", transformers.MixtralConfig(**GROUPED, num_local_experts=4))


@pytest.fixture
def rewrite() -> Callable[..., None]:
    """Saves the tensors of a one-file folder again after ``change(tensors)``."""
    from safetensors.torch import load_file, save_file

    def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite
