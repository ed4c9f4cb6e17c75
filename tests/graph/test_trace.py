"""Tracing models of many families with the same lines of code; each claim is checked against hooks on a real run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as T
from torch import Tensor, nn

from bitwright.graph import Graph, TraceError, trace
from bitwright.store.skeleton import build_skeleton

SIZES = {"vocab_size": 160, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
BASE: dict[str, Any] = {**SIZES, "intermediate_size": 48, "max_position_embeddings": 64}
GROUPED: dict[str, Any] = {**BASE, "num_key_value_heads": 2, "pad_token_id": 0}
OLD: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 160, "n_positions": 64}

CONFIGS: dict[str, Any] = {
    "Llama": lambda: T.LlamaConfig(**GROUPED),
    "Mistral": lambda: T.MistralConfig(**GROUPED),
    "Qwen2": lambda: T.Qwen2Config(**GROUPED),
    "Qwen3": lambda: T.Qwen3Config(**GROUPED, head_dim=16),
    "Gemma2": lambda: T.Gemma2Config(**GROUPED, head_dim=16),
    "Phi-3": lambda: T.Phi3Config(**GROUPED),
    "GPT-2": lambda: T.GPT2Config(**OLD),
    "GPT-NeoX": lambda: T.GPTNeoXConfig(**BASE),
    "OPT": lambda: T.OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=64),
    "Falcon": lambda: T.FalconConfig(**SIZES),
    "BLOOM": lambda: T.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=160),
    "Mixtral": lambda: T.MixtralConfig(**GROUPED, num_local_experts=4),
}
# linears per block, and those whose output is added straight to the stream (ends of their names)
EXPECTED = {
    "Llama": (7, {"o_proj", "down_proj"}),
    "Mistral": (7, {"o_proj", "down_proj"}),
    "Qwen2": (7, {"o_proj", "down_proj"}),
    "Qwen3": (7, {"o_proj", "down_proj"}),
    "Gemma2": (7, set()),  # a norm lies between every linear and the stream
    "Phi-3": (4, {"o_proj", "down_proj"}),
    "GPT-2": (4, {"c_proj"}),
    "GPT-NeoX": (4, set()),  # the two outputs are added to each other first
    "OPT": (6, {"out_proj", "fc2"}),
    "Falcon": (4, set()),
    "BLOOM": (4, {"dense", "dense_4h_to_h"}),
    "Mixtral": (4 + 1 + 2 * 4, {"o_proj"}),
}


def graph_of(family: str) -> Graph:
    return trace(build_skeleton(CONFIGS[family](), torch.float32))


@pytest.mark.parametrize("family", CONFIGS)
def test_every_linear_and_every_writer_of_the_stream_is_found(family: str) -> None:
    graph = graph_of(family)
    count, writers = EXPECTED[family]
    assert len(graph.blocks) == 2
    for block in graph.blocks:
        assert len(block.linears) == count
        assert {one.view.name.split(".")[-1] for one in block.linears if one.writes_stream} == writers


@pytest.mark.parametrize("family", [name for name in CONFIGS if name != "Mixtral"])
def test_views_and_shared_inputs_agree_with_hooks_on_a_real_run(family: str) -> None:
    torch.manual_seed(0)
    model = T.AutoModelForCausalLM.from_config(CONFIGS[family]()).eval()
    graph, block = graph_of(family), graph_of(family).blocks[0]
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name in (linear.view.name for linear in block.linears):

        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor, name: str = name) -> None:
            seen[name] = args[0].clone(), out.clone()  # some models add to the output in place

        model.get_submodule(name).register_forward_hook(hook)
    with torch.no_grad():
        model(torch.arange(8)[None] + 3)
    parameters = dict(model.named_parameters())
    for linear in block.linears:
        read, wrote = seen[linear.view.name]
        bias = parameters.get(f"{linear.view.name}.bias")
        wanted = read.reshape(-1, read.shape[-1]) @ linear.view.read(parameters[linear.view.parameter]).T
        wanted = wanted if bias is None else wanted + bias
        torch.testing.assert_close(wanted, wrote.reshape(wanted.shape), rtol=1e-4, atol=1e-5)
        for other in block.linears:
            alike = seen[other.view.name][0]
            if linear.source == other.source:
                assert torch.equal(alike, read), (linear.view.name, other.view.name)
    inputs = {linear.source for linear in block.linears}
    assert len(inputs) == {"GPT-NeoX": 4, "Falcon": 3, "Phi-3": 4, "GPT-2": 4, "BLOOM": 4}.get(family, 4)
    assert graph.blocks[1].linears[0].view.name.startswith(graph.blocks[1].name)


@pytest.mark.parametrize("family", ["Llama", "Mixtral", "GPT-2"])
def test_dependence_follows_the_order_of_the_block(family: str) -> None:
    after = {one.view.name.split(".", 3)[-1]: one.after for one in graph_of(family).blocks[0].linears}
    first = [name for name, upstream in after.items() if not upstream]
    assert first == {"GPT-2": ["attn.c_attn"]}.get(family, [f"self_attn.{x}_proj" for x in "qkv"])
    if family == "Llama":
        assert {x.split(".")[-1] for x in after["mlp.down_proj"]} == {"gate_proj", "up_proj"}
        assert {x.split(".")[-1] for x in after["self_attn.o_proj"]} == {"q_proj", "k_proj", "v_proj"}


def test_transposed_weights_are_seen_as_such() -> None:
    views = [one.view for one in graph_of("GPT-2").blocks[0].linears]
    assert all(view.transposed for view in views) and views[0].shape == (96, 32)


def test_experts_are_slices_routed_by_the_router() -> None:
    linears = graph_of("Mixtral").blocks[0].linears
    assert [one.view.name.split(".")[-1] for one in linears if one.selects] == ["gate"]
    experts = [one for one in linears if one.view.index is not None]
    assert len(experts) == 8 and all(one.routed for one in experts)
    assert {one.view.index for one in experts} == {0, 1, 2, 3}
    down = [one for one in experts if "down_proj" in one.view.parameter]
    assert all(f"gate_up_proj.{one.view.index}" in " ".join(one.after) for one in down)


def test_a_model_without_repeated_blocks_is_refused() -> None:
    with pytest.raises(TraceError, match="no repeated blocks"):
        trace(nn.Linear(4, 4))


class Odd(nn.Module):
    """A language model that no library knows; `bad` makes its blocks call an operator that fails."""

    def __init__(self, bad: bool) -> None:
        super().__init__()
        self.zork = nn.Embedding(16, 8)
        self.pile = nn.ModuleList(OddBlock(bad) for _ in range(3))
        self.spout = nn.Linear(8, 16, bias=False)

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        x = self.zork(input_ids)
        for block in self.pile:
            x = block(x)
        return self.spout(x)


class OddBlock(nn.Module):
    def __init__(self, bad: bool) -> None:
        super().__init__()
        self.bad = bad
        self.blip, self.blop = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.blop(torch.tanh(self.blip(x)))
        return torch.linalg.cholesky(x @ x.mT) @ x if self.bad else x


def test_a_model_with_names_of_its_own_is_traced() -> None:
    graph = trace(Odd(bad=False))
    assert [block.name for block in graph.blocks] == ["pile.0", "pile.1", "pile.2"]
    blip, blop = graph.blocks[1].linears
    assert blop.after == ("pile.1.blip",) and blop.writes_stream and not blip.writes_stream
    assert {one.parameter: one.kind for one in graph.outside} == {"zork.weight": "embedding", "spout.weight": "head"}
