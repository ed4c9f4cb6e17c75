"""Small random language models of many families, and one whose modules have names that mean nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from bitwright.store.skeleton import build_skeleton

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "max_position_embeddings": 64,
}
GATED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 48, "pad_token_id": 0}
EXPERTS: dict[str, Any] = {**GATED, "moe_intermediate_size": 24, "num_experts_per_tok": 2, "head_dim": 8}
BLOOM: dict[str, Any] = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64}
LATENT: dict[str, Any] = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
DEEPSEEK: dict[str, Any] = {
    **EXPERTS,
    **LATENT,
    "num_key_value_heads": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
}

# name -> (class of the configuration, its fields); built on demand, since each is slow to import
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GATED),
    "mistral": ("MistralConfig", GATED),
    "qwen2": ("Qwen2Config", GATED),
    "qwen3": ("Qwen3Config", {**GATED, "head_dim": 8}),
    "gemma2": ("Gemma2Config", {**GATED, "head_dim": 8}),
    "phi3": ("Phi3Config", GATED),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 64}),
    "neox": ("GPTNeoXConfig", {**SIZES, "intermediate_size": 48}),
    "opt": ("OPTConfig", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "falcon": ("FalconConfig", SIZES),
    "bloom": ("BloomConfig", BLOOM),
    "mixtral": ("MixtralConfig", {**GATED, "num_local_experts": 4}),
    "qwen2_moe": ("Qwen2MoeConfig", {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 40}),
    "deepseek": ("DeepseekV3Config", {**DEEPSEEK, "first_k_dense_replace": 1, "n_shared_experts": 1}),
    "llama4": (
        "Llama4TextConfig",
        {**EXPERTS, "num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 48},
    ),
}
MIXTURES = ("mixtral", "qwen2_moe", "deepseek", "llama4")


def configuration(family: str) -> transformers.PreTrainedConfig:
    """The configuration of one family."""
    kind, fields = FAMILIES[family]
    config: transformers.PreTrainedConfig = getattr(transformers, kind)(**fields)
    return config


def skeleton(family: str) -> nn.Module:
    """The model without weights, as a source hands it out."""
    return build_skeleton(configuration(family), torch.float32)


def real(family: str) -> nn.Module:
    """The same model with random weights."""
    torch.manual_seed(0)
    config = configuration(family)
    config.use_cache, config._experts_implementation = False, "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    return model


class Stack(nn.Module):
    """Experts in one parameter [experts, in, out], all of them on every token by one batched product."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, width, width) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        many = torch.stack([x.reshape(-1, x.shape[-1]) * (1 + i) for i in range(3)])
        return torch.bmm(many, self.w).sum(0).reshape(x.shape)


class Zorp(nn.Module):
    """A block: a gated mixing of tokens, then a stack of experts; a product with a parameter stored [in, out]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.aa, self.bb = nn.Linear(width, 2 * width), nn.Linear(width, width, bias=False)
        self.m = nn.Parameter(torch.randn(width, width) * 0.2)
        self.unused = nn.Parameter(torch.randn(width, width))
        self.split = nn.Parameter(torch.randn(2 * width, width) * 0.2)
        self.quux = Stack(width)

    def forward(self, side: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self.aa(x * side).chunk(2, -1)
        x = x + self.bb(torch.tanh(left).cumsum(1) * right)
        x = x + torch.relu(x) @ self.m
        x = x + nn.functional.linear(x.sin(), self.split[: x.shape[-1]])  # half of a parameter: no whole matrix
        return side, x + self.quux(x.cos())


class Odd(nn.Module):
    """A language model whose names say nothing; its blocks take and return the stream in second place."""

    def __init__(self, width: int = 16, block: type[nn.Module] = Zorp, count: int = 3) -> None:
        super().__init__()
        self.enter = nn.Embedding(40, width)
        self.side = nn.Parameter(torch.rand(width) + 0.5)
        self.zorps = nn.ModuleList(block(width) for _ in range(count))
        self.leave = nn.Linear(width, 40, bias=False)

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        x = self.enter(input_ids)
        for zorp in self.zorps:
            _, x = zorp(self.side, x)
        return SimpleNamespace(logits=self.leave(x))
