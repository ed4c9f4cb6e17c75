"""Sources and artifacts that several tests read; none of them writes into these folders."""

from pathlib import Path

import pytest
import torch
import transformers

from bitwright.numerics import per_group
from bitwright.store.artifact import Artifact
from export.artifacts import LAYERS, every_spec, integers, llama_config, make
from store.small_models import GROUPED, save

SIZES = {"vocab_size": 160, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models: deep (for every_spec), tied, GPT-2 (Conv1D), Mixtral (fused experts)."""
    root = tmp_path_factory.mktemp("sources")
    configs = {
        "deep": llama_config(num_hidden_layers=LAYERS, attention_bias=True),
        "llama": llama_config(),
        "tied": llama_config(tie_word_embeddings=True),
        "gpt2": transformers.GPT2Config(**SIZES),
        "mixtral": transformers.MixtralConfig(**GROUPED, num_local_experts=4),
    }
    return {name: save(root / name, config, dtype=torch.bfloat16) for name, config in configs.items()}


@pytest.fixture(scope="session")
def every(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An artifact that has a weight in every storage that compressed-tensors can hold."""
    return make(sources["deep"], tmp_path_factory.mktemp("every") / "artifact", every_spec())


@pytest.fixture(scope="session")
def small(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A two-layer Llama in 4 bits, asymmetric."""
    return make(sources["llama"], tmp_path_factory.mktemp("small") / "artifact", integers(4, False, per_group(16)))
