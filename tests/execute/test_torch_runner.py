"""A model run part by part gives, bit for bit, the logits of the whole model."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from bitwright.execute import TorchRunner
from bitwright.execute.torch_runner import Weights
from bitwright.graph import TraceError, trace
from bitwright.graph.stream import Stream
from bitwright.store.source import Source, open_source
from store.small_models import GROUPED, SHARED, SIZES, TOLD, save, save_with_layers_for_pictures, save_with_vision

WINDOW = {**GROUPED, "sliding_window": 4}
PLAIN = {"vocab_size": 160, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
EXPERTS = {**GROUPED, "num_experts_per_tok": 2}
OPT = {key: value for key, value in SIZES.items() if key != "intermediate_size"}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
DEEPSEEK = {**EXPERTS, **LATENT, "num_key_value_heads": 4, "n_routed_experts": 4, "moe_intermediate_size": 32}
HYPER = {"head_dim": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "o_lora_rank": 16, "o_groups": 2, "hc_mult": 2}
FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("LlamaConfig", GROUPED),
    "tied": ("LlamaConfig", {**GROUPED, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", WINDOW),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 16}),
    "gemma2": ("Gemma2Config", {**WINDOW, "head_dim": 16}),
    "gemma3": ("Gemma3TextConfig", {**WINDOW, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]}),
    "phi3": ("Phi3Config", GROUPED),
    "phi": ("PhiConfig", SIZES),
    "gpt2": ("GPT2Config", PLAIN),
    "gptj": ("GPTJConfig", {**PLAIN, "rotary_dim": 4}),
    "neox": ("GPTNeoXConfig", SIZES),
    "opt": ("OPTConfig", {**OPT, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "opt-projected": ("OPTConfig", {**OPT, "ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "falcon": ("FalconConfig", OPT),
    "falcon-alibi": ("FalconConfig", {**OPT, "alibi": True}),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 160}),
    "mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 4}),
    "deepseek": ("DeepseekV3Config", {**DEEPSEEK, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1}),
    "gptoss": ("GptOssConfig", {**WINDOW, "head_dim": 8, "num_local_experts": 4}),
    "olmo2": ("Olmo2Config", GROUPED),
    "cohere": ("CohereConfig", GROUPED),
    "granite": ("GraniteConfig", {**GROUPED, "embedding_multiplier": 3.0, "logits_scaling": 2.0}),
    "stablelm": ("StableLmConfig", GROUPED),
    "glm4": ("Glm4Config", {**GROUPED, "head_dim": 8}),
    "gemma4": ("Gemma4TextConfig", {**TOLD, "per_layer_config": {"1": {"head_dim": 8}}}),
    "gemma4-shared": ("Gemma4TextConfig", {**SHARED, "num_global_key_value_heads": 1}),
    "gemma3n-shared": ("Gemma3nTextConfig", {**SHARED, "laurel_rank": 8, "activation_sparsity_pattern": [0.0] * 5}),
    "gemma3n": ("Gemma3nTextConfig", {**TOLD, "laurel_rank": 8, "activation_sparsity_pattern": [0.0, 0.0]}),
    "deepseek4": ("DeepseekV4Config", {**EXPERTS, **HYPER, "moe_intermediate_size": 32, "n_routed_experts": 4}),
}
TOLD_FAMILIES = {"gemma4", "gemma4-shared", "gemma3n", "gemma3n-shared", "deepseek4"}
# rows, tokens, rows at a time: the last batch is smaller where it does not divide
BATCHES = [(1, 1, 1), (5, 9, 2), (3, 17, 3)]


def opened(folder: Path, family: str, dtype: torch.dtype = torch.float32) -> tuple[Source, nn.Module]:
    """A model's source, and the whole of it as transformers loads it."""
    kind, fields = FAMILIES[family]
    save(folder, getattr(transformers, kind)(**fields), dtype=dtype)
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, experts_implementation="eager")
    return open_source(folder), whole.eval()


def in_parts(runner: TorchRunner, source: Weights, tokens: Tensor, size: int) -> Tensor:
    """Logits of all rows, some at a time: prefix for all, then block by block, then suffix for all."""
    parts = tokens.split(size)
    runner.load_outside()
    streams = [runner.first_stream(part) for part in parts]
    runner.drop_outside()
    for index, block in enumerate(runner.graph.blocks):
        held = [name for name in source.parameters() if name.startswith(block.name + ".")]
        module = runner.block(index, source.read(held))
        streams = [runner.run(index, module, stream, part) for stream, part in zip(streams, parts, strict=True)]
    runner.load_outside()
    return torch.cat([runner.logits(part, stream) for part, stream in zip(parts, streams, strict=True)])


def at_once(whole: nn.Module, tokens: Tensor, size: int) -> Tensor:
    """The whole model's logits of the same batches."""
    with torch.no_grad():
        return torch.cat([whole(input_ids=part, use_cache=False).logits for part in tokens.split(size)])


def drawn(rows: int, length: int) -> Tensor:
    return torch.randint(3, 160, (rows, length), generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_in_parts_are_those_of_the_whole_model(family: str, tmp_path: Path) -> None:
    source, whole = opened(tmp_path, family)
    runner = TorchRunner(source, trace(source.skeleton()), torch.float32)
    for rows, length, size in BATCHES:
        tokens = drawn(rows, length)
        found = in_parts(runner, source, tokens, size)
        assert torch.equal(found, at_once(whole, tokens, size)), (rows, length, size)
        assert found.std() > 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_short_type_gives_the_same_too(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    source, whole = opened(tmp_path, family, dtype)
    runner = TorchRunner(source, trace(source.skeleton()), dtype)
    assert torch.equal(in_parts(runner, source, drawn(3, 9), 2), at_once(whole, drawn(3, 9), 2))


def test_a_short_model_in_float32_is_the_whole_model_in_float32(tmp_path: Path) -> None:
    source, whole = opened(tmp_path, "llama", torch.bfloat16)
    runner = TorchRunner(source, trace(source.skeleton()), torch.float32)
    assert torch.equal(in_parts(runner, source, drawn(3, 9), 2), at_once(whole.float(), drawn(3, 9), 2))


# transformers 5.17 cannot run deepseek4 in bfloat16 on processors
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"deepseek4"}))
def test_matrices_in_bfloat16_under_float32_activations_lose_only_their_rounding(family: str, tmp_path: Path) -> None:
    source, whole = opened(tmp_path, family, torch.bfloat16)
    runner = TorchRunner(source, trace(source.skeleton()), torch.float32, torch.bfloat16)
    found, wanted = in_parts(runner, source, drawn(3, 9), 2), at_once(whole.float(), drawn(3, 9), 2)
    assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.02


def test_a_block_is_a_copy_of_its_own(tmp_path: Path) -> None:
    source, _ = opened(tmp_path, "llama")
    runner = TorchRunner(source, trace(source.skeleton()), torch.float32)
    weights = source.read(runner.graph.blocks[1].parameters)
    one, other = runner.block(1, weights), runner.block(1, {name: tensor * 2 for name, tensor in weights.items()})
    assert not one.training
    for (name, left), (_, right) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(2 * left, right) and not left.requires_grad, name
    assert all(p.is_meta for p in runner.block(0, {}).parameters())


def test_what_is_outside_takes_no_memory_once_dropped(tmp_path: Path) -> None:
    source, _ = opened(tmp_path, "tied")
    runner = TorchRunner(source, trace(source.skeleton()), torch.float32)
    runner.load_outside()
    runner.note_calls(2, 5)
    runner.drop_outside()
    call = runner.call(0, drawn(2, 5))
    assert call.leaves[call.stream] is None
    with pytest.raises((RuntimeError, NotImplementedError)):
        runner.first_stream(drawn(2, 6))


class Whispering(nn.Module):
    """A language model that tells every block the words, not only the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Embedding(160, 8), nn.Linear(8, 160)
        self.blocks = nn.ModuleList(Told() for _ in range(2))

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        stream = told = self.enter(input_ids)
        for block in self.blocks:
            stream = block(stream, told * 1)
        return SimpleNamespace(logits=self.leave(stream))


class Told(nn.Module):
    """Adds what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, stream: Tensor, told: Tensor) -> Tensor:
        return stream + self.linear(stream) + told


class Leaving(nn.Module):
    """A language model whose first block leaves two tensors for the others, beside one that the model gives all."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Embedding(160, 8), nn.Linear(8, 160)
        self.blocks = nn.ModuleList(Sharing() for _ in range(3))

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        stream, side = self.enter(input_ids), UserDict({"scale": torch.full((8,), 3.0)})
        for block in self.blocks:
            stream = block(stream, side=side)
        return SimpleNamespace(logits=self.leave(stream))


class Sharing(nn.Module):
    """Makes two values of the stream unless they are there already, and works with them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, stream: Tensor, side: UserDict[str, Any]) -> Tensor:
        made = self.linear(stream) * side["scale"]
        if "pair" not in side:
            side["pair"] = made.unflatten(-1, (2, 4)).transpose(1, 2), made.mean(-1)
        one, other = side["pair"]
        return stream + made + one.transpose(1, 2).flatten(2) * other[..., None]


class Held:
    """A model as weights by name."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def skeleton(self) -> nn.Module:
        return type(self.model)().to("meta")

    def parameters(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def tied(self) -> dict[str, str]:
        return {}

    def read(self, names: object) -> dict[str, Tensor]:
        return {name: self.parameters()[name].detach() for name in names}  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_seen_whether_blocks_are_told_the_words(family: str, tmp_path: Path) -> None:
    source, _ = opened(tmp_path, family)
    assert trace(source.skeleton()).tells_tokens == (family in TOLD_FAMILIES)


@pytest.mark.parametrize(
    ("family", "stream"),
    [("llama", Stream((32,))), ("deepseek4", Stream((2, 32))), ("gemma3n", Stream((4, 32), rows_axis=1))],
)
def test_the_stream_may_be_several_vectors_a_token(family: str, stream: Stream, tmp_path: Path) -> None:
    source, _ = opened(tmp_path, family)
    graph = trace(source.skeleton())
    assert graph.stream == stream
    runner = TorchRunner(source, graph, torch.float32)
    runner.load_outside()
    first = runner.first_stream(drawn(3, 9))
    assert first.shape[:2] == (3, 9) and first[0, 0].numel() == stream.width


def test_blocks_that_are_told_the_words_are_told_those_of_each_batch() -> None:
    weights = Held(Whispering())
    runner = TorchRunner(weights, trace(weights.skeleton()), torch.float32)
    assert runner.graph.tells_tokens
    assert torch.equal(in_parts(runner, weights, drawn(5, 9), 2), at_once(weights.model, drawn(5, 9), 2))


def test_what_a_block_leaves_for_later_ones_is_handed_on_with_the_stream() -> None:
    weights = Held(Leaving())
    runner = TorchRunner(weights, trace(weights.skeleton()), torch.float32)
    assert [entry.key for entry in runner.graph.stream.shelf.entries] == ["pair"]
    assert runner.graph.stream.width == 8 + 2 * 4 + 1
    assert [block.finds for block in runner.graph.blocks] == [0, 1, 1]
    assert not runner.graph.is_alike and not runner.graph.tells_tokens
    assert torch.equal(in_parts(runner, weights, drawn(5, 9), 2), at_once(weights.model, drawn(5, 9), 2))


def test_gradients_reach_a_block_through_what_it_left_for_later_ones() -> None:
    weights, name, tokens = Held(Leaving()), "blocks.0.linear.weight", drawn(3, 9)
    runner = TorchRunner(weights, trace(weights.skeleton()), torch.float32)
    runner.load_outside()
    moved = weights.parameters()[name].detach().clone().requires_grad_()
    stream = runner.first_stream(tokens)
    for index, block in enumerate(runner.graph.blocks):
        module = runner.block(index, weights.read(block.parameters))
        stream = runner.through(index, module, stream, tokens, {} if index else {name: moved})
    runner.logits(tokens, stream).square().sum().backward()
    weights.model(input_ids=tokens).logits.square().sum().backward()
    torch.testing.assert_close(moved.grad, weights.parameters()[name].grad)


@pytest.mark.parametrize("make", [save_with_vision, save_with_layers_for_pictures])
def test_a_model_that_reads_pictures_too_is_run_whole(make: Callable[[Path], Path], tmp_path: Path) -> None:
    source = open_source(make(tmp_path))
    whole = transformers.AutoModelForMultimodalLM.from_pretrained(tmp_path).eval()
    assert {name for name in source.parameters() if "vis" in name}
    runner = TorchRunner(source, trace(source.skeleton()), torch.float32)
    assert torch.equal(in_parts(runner, source, drawn(5, 9), 2), at_once(whole, drawn(5, 9), 2))


def test_side_inputs_that_follow_the_words_unseen_are_an_error() -> None:
    weights = Held(Whispering())
    graph = replace(trace(weights.skeleton()), tells_tokens=False)
    runner = TorchRunner(weights, graph, torch.float32)
    runner.load_outside()
    runner.first_stream(drawn(2, 5))
    with pytest.raises(TraceError, match=r"blocks\.0: its side inputs follow the tokens"):
        runner.first_stream(drawn(2, 5) + 1)
