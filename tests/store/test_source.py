"""Source: what it reads equals what transformers loads, and can be written back, for many kinds of checkpoint."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bitwright.store.skeleton import build_skeleton
from bitwright.store.source import SourceError, TensorShape, open_source
from store.small_models import GROUPED, SIZES, reference, save

T = transformers
GPT2 = {"vocab_size": 160, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
DEEPSEEK = {
    **SIZES,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
MODELS = {  # config, shard size, dtype
    "llama": (T.LlamaConfig(**GROUPED), "20KB", torch.float32),
    "llama tied": (T.LlamaConfig(**GROUPED, tie_word_embeddings=True), "5GB", torch.bfloat16),
    "mistral": (T.MistralConfig(**GROUPED), "200KB", torch.bfloat16),
    "qwen2": (T.Qwen2Config(**GROUPED), "5GB", torch.float16),
    "qwen3": (T.Qwen3Config(**GROUPED, head_dim=16), "20KB", torch.float32),
    "gemma2": (T.Gemma2Config(**GROUPED, head_dim=16), "20KB", torch.bfloat16),
    "phi3": (T.Phi3Config(**GROUPED), "5GB", torch.float32),
    "gpt2": (T.GPT2Config(**GPT2), "20KB", torch.float32),
    "gptneox": (T.GPTNeoXConfig(**SIZES), "20KB", torch.float16),
    "opt": (T.OPTConfig(**GROUPED, ffn_dim=48, word_embed_proj_dim=32), "5GB", torch.float16),
    "falcon": (T.FalconConfig(**SIZES), "5GB", torch.bfloat16),
    "bloom": (T.BloomConfig(vocab_size=160, hidden_size=32, n_layer=2, n_head=4), "20KB", torch.float32),
    "mixtral": (T.MixtralConfig(**GROUPED, num_local_experts=12), "20KB", torch.bfloat16),
    "qwen3 moe": (T.Qwen3MoeConfig(**GROUPED, num_experts=8, moe_intermediate_size=16), "20KB", torch.float32),
    "deepseek": (T.DeepseekV3Config(**DEEPSEEK), "20KB", torch.bfloat16),
}


def stored_tensors(folder):
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("kind", MODELS)
def test_reads_what_transformers_loads_and_gives_back_what_is_stored(tmp_path, kind):
    folder = save(tmp_path, *MODELS[kind])
    source = open_source(folder)
    loaded = reference(folder)
    assert_same(source.read(loaded), loaded)
    assert source.parameters().keys() == loaded.keys() - source.tied().keys()
    for name, shape in source.parameters().items():
        assert shape == TensorShape(tuple(loaded[name].shape), loaded[name].dtype)
    stored = stored_tensors(folder)
    found = source.to_checkpoint(source.read(source.parameters()))
    assert_same({name: tensor.to(stored[name].dtype) for name, tensor in found.items()}, stored)  # some are kept wider
    assert all(tensor.is_contiguous() for tensor in found.values())
    assert source.bytes == sum(tensor.nbytes for tensor in stored.values())
    assert sorted(n for name in source.parameters() for n in source.checkpoint_names(name)) == sorted(stored)
    assert source.unused() == ()


@pytest.mark.parametrize("kind", MODELS)
def test_the_skeleton_with_the_weights_read_into_it_computes_what_the_loaded_model_does(tmp_path, kind):
    folder = save(tmp_path, *MODELS[kind])
    source = open_source(folder)
    model = source.skeleton()
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not model.training and not model.config.use_cache
    assert not any(buffer.is_meta for buffer in model.buffers())
    loaded = T.AutoModelForCausalLM.from_pretrained(folder)
    for name, buffer in loaded.named_buffers():
        if name not in source.parameters():
            assert torch.equal(model.get_buffer(name), buffer), name
    model.load_state_dict(source.read(loaded.state_dict()), assign=True)
    tokens = torch.arange(12).reshape(1, -1)
    with torch.no_grad():
        # experts run one by one here and grouped there, which sums in another order
        here, there = model(tokens).logits.float(), loaded(tokens).logits.float()
        rounding = 1e-6 if model.dtype == torch.float32 else 2**-7
        assert float((here - there).abs().max()) <= rounding * float(there.abs().max())


def test_only_the_shard_that_holds_the_tensor_is_opened(sharded):
    source = open_source(sharded)
    name = "model.layers.1.mlp.up_proj.weight"
    home = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"][name]
    for file in sharded.glob("*.safetensors"):
        if file.name != home:
            file.unlink()
    assert source.read([name])[name].shape == (48, 32)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux")
def test_plain_tensors_are_memory_mapped(llama):
    name = "model.layers.0.mlp.up_proj.weight"
    tensor = open_source(llama).read([name])[name]
    lines = Path("/proc/self/maps").read_text().splitlines()
    maps = [line.split() for line in lines if line.endswith("llama/model.safetensors")]
    ranges = [tuple(int(end, 16) for end in line[0].split("-")) for line in maps]
    assert any(begin <= tensor.data_ptr() < end for begin, end in ranges)


def test_merged_experts_lie_in_tensors_of_their_own(mixtral):
    names = open_source(mixtral).checkpoint_names("model.layers.1.mlp.experts.gate_up_proj")
    prefix = "model.layers.1.block_sparse_moe.experts"
    assert names == tuple(f"{prefix}.{expert}.{part}.weight" for expert in range(4) for part in ("w1", "w3"))


def test_changed_experts_go_back_to_their_own_names(mixtral):
    source = open_source(mixtral)
    name = "model.layers.0.mlp.experts.down_proj"
    experts = source.read([name])[name] * 2
    found = source.to_checkpoint({name: experts})
    assert len(found) == 4
    for expert in range(4):
        assert torch.equal(found[f"model.layers.0.block_sparse_moe.experts.{expert}.w2.weight"], experts[expert])


def test_a_checkpoint_without_the_base_models_prefix_is_read(tmp_path):
    folder = save(tmp_path / "whole", T.GPT2Config(**GPT2))
    T.AutoModelForCausalLM.from_pretrained(folder).transformer.save_pretrained(tmp_path / "base")
    source = open_source(tmp_path / "base")
    assert source.checkpoint_names("transformer.h.0.attn.c_attn.weight") == ("h.0.attn.c_attn.weight",)
    loaded = reference(tmp_path / "base")
    assert_same(source.read(loaded), loaded)
    assert_same(source.to_checkpoint(loaded), stored_tensors(tmp_path / "base"))


def test_tensors_that_the_model_does_not_use_are_listed(llama, rewrite):
    rewrite(llama, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    source = open_source(llama)
    assert source.unused() == ("model.layers.0.self_attn.rotary_emb.inv_freq",)
    assert_same(source.read(source.parameters()), reference(llama))


def test_float32_weights_are_given_in_the_dtype_of_the_config(llama):
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    source = open_source(llama)
    assert source.dtype == torch.bfloat16
    assert_same(source.read(source.parameters()), reference(llama))


def test_without_a_dtype_in_the_config_the_commonest_is_taken(tmp_path):
    folder = save(tmp_path, T.LlamaConfig(**GROUPED), dtype=torch.float16)
    config = json.loads((folder / "config.json").read_text())
    config.pop("dtype")
    (folder / "config.json").write_text(json.dumps(config))
    assert open_source(folder).dtype == torch.float16


def test_the_digest_depends_on_contents_and_not_on_the_place(llama, tmp_path, rewrite):
    first = open_source(llama).digest()
    shutil.copytree(llama, tmp_path / "elsewhere")
    assert open_source(tmp_path / "elsewhere").digest() == first
    rewrite(tmp_path / "elsewhere", lambda tensors: tensors["model.norm.weight"].add_(1))
    assert open_source(tmp_path / "elsewhere").digest() != first


def test_a_changed_config_changes_the_digest(llama):
    first = open_source(llama).digest()
    (llama / "config.json").write_text((llama / "config.json").read_text() + "\n")
    assert open_source(llama).digest() != first


def test_side_files_leave_out_weights_and_code(llama):
    for name in ("tokenizer.json", "tokenizer.model", "chat_template.jinja", "tokenizer_own.py", "README.md"):
        (llama / name).touch()
    names = [file.name for file in open_source(llama).side_files()]
    assert names == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
    ]


def test_the_tokenizer_is_loaded(llama):
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "?": 2}, unk_token="?"))
    T.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>").save_pretrained(llama)
    assert open_source(llama).tokenizer().bos_token_id == 0


def test_a_folder_without_a_tokenizer_says_so(llama):
    with pytest.raises(SourceError, match="no usable tokenizer"):
        open_source(llama).tokenizer()


def test_what_the_loader_keeps_in_float32_is_read_in_float32(tmp_path):
    source = open_source(save(tmp_path, *MODELS["deepseek"]))
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert source.parameters()[name].dtype == torch.float32
    assert source.read([name])[name].dtype == torch.float32
    assert source.skeleton().get_buffer(name).dtype == torch.float32


def test_an_unknown_name_is_refused(llama):
    with pytest.raises(SourceError, match=r"no tensor 'model.norm.wait'"):
        open_source(llama).read(["model.norm.wait"])


def test_an_alias_with_other_values_has_no_place_in_a_tied_checkpoint(sharded):
    source = open_source(sharded)
    tensors = source.read(["lm_head.weight", "model.embed_tokens.weight"])
    assert source.to_checkpoint(tensors).keys() == {"model.embed_tokens.weight"}
    with pytest.raises(SourceError, match="tied to model.embed_tokens.weight"):
        source.to_checkpoint({**tensors, "lm_head.weight": tensors["lm_head.weight"] + 1})


TINY = {
    **DEEPSEEK,
    "num_key_value_heads": 2,
    "pad_token_id": None,
    "n_layer": 2,
    "head_dim": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "ffn_dim": 48,
    "word_embed_proj_dim": 32,
    "n_embd": 32,
    "n_head": 4,
    "n_positions": 64,
    "rotary_dim": 4,
    "d_model": 32,
}


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_every_causal_language_model_of_transformers_is_read_and_written_back(tmp_path, model_type):
    try:
        kind = T.CONFIG_MAPPING[model_type]
        known = kind().to_dict()
        config = kind(**{name: value for name, value in TINY.items() if name in known})
        model = build_skeleton(config, torch.float32)
    except Exception as error:
        pytest.skip(f"no small config: {error}")
    if sum(parameter.numel() for parameter in model.parameters()) > 2e7:
        pytest.skip("no small config")
    folder = save(tmp_path, config, "3MB")
    source, loaded, stored = open_source(folder), reference(folder), stored_tensors(folder)
    assert_same(source.read(loaded), loaded)
    found = source.to_checkpoint(source.read(source.parameters()))
    assert_same({name: tensor.to(stored[name].dtype) for name, tensor in found.items()}, stored)
