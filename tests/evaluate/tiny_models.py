"""Tiny random models with the tokenizer of the shipped one, their artifacts, and the plain way to compare the two."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers

from bitwright.numerics import Int, Spec, per_group
from bitwright.quantize import quantize
from bitwright.recipe.recipe import Recipe, Rule
from bitwright.solvers import Nearest
from bitwright.store.artifact import Artifact

GROUPED = {"vocab_size": 4096, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
MIXTURE = {"num_local_experts": 3, "num_experts_per_tok": 2}
PLAIN = {"vocab_size": 4096, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
CONFIGS: dict[str, transformers.PreTrainedConfig] = {
    "untied": transformers.LlamaConfig(**GROUPED, **HEADS, tie_word_embeddings=False),
    "tied": transformers.LlamaConfig(**GROUPED, **HEADS, tie_word_embeddings=True),
    "transposed": transformers.GPT2Config(**PLAIN, tie_word_embeddings=False),
    "experts": transformers.MixtralConfig(**GROUPED, **HEADS, **MIXTURE),
}
Change = Callable[[transformers.PreTrainedModel], None]


def unchanged(model: transformers.PreTrainedModel) -> None:
    """Leaves the random weights as they are."""


def save(folder: Path, config: str, tokenizer: Path, change: Change = unchanged, seed: int = 0) -> Path:
    """A model with random weights in `folder`, with a tokenizer of 4096 words."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[config], dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data.normal_(1 if parameter.dim() == 1 else 0, 0.2)
    change(model)
    model.save_pretrained(folder)
    for file in tokenizer.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def artifact_of(model: Path, out: Path, bits: int = 3, embedding: bool = True) -> Artifact:
    """The model rounded to nearest: linears in groups of 16, and the embedding too unless it is left out."""
    spec = Spec(Int(bits), per_group(16))
    rules = (Rule("*", spec), Rule("kind:embedding", spec))
    return quantize(model, Recipe(rules if embedding else rules[:1], solver=Nearest()), out)


@dataclass(frozen=True, slots=True)
class Reference:
    """Per predicted token, float64 in the order of the text."""

    loss_original: np.ndarray
    loss: np.ndarray
    divergence: np.ndarray
    agrees: np.ndarray


def reference(model: Path, artifact: Artifact, text: str, length: int) -> Reference:
    """Both models whole in memory, one window after the other, in float32."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokens = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
    original, rounded = (transformers.AutoModelForCausalLM.from_pretrained(model).eval() for _ in range(2))
    for block, _ in artifact.parts():
        names = rounded.load_state_dict(artifact.parameters(block, torch.float32), strict=False)
        assert not names.unexpected_keys
    rows = []
    for start in range(0, len(tokens) - 1, length - 1):
        window = torch.tensor(tokens[start : start + length])
        with torch.no_grad():
            p, q = (m(window[None]).logits[0, :-1].double() for m in (original, rounded))
        losses = [torch.nn.functional.cross_entropy(x, window[1:], reduction="none") for x in (p, q)]
        kl = torch.nn.functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none").sum(-1)
        rows.append(torch.stack([*losses, kl, (p.argmax(-1) == q.argmax(-1)).double()]))
    return Reference(*torch.cat(rows, dim=1).numpy())
