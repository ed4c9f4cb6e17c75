"""Renames by hand-made converters, checked against hand-made results."""

import pytest
import torch
import transformers
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, ConversionOps, Transpose, WeightConverter, WeightRenaming

from bitwright.store.renames import Rows, plan_renames
from bitwright.store.safetensors_file import TensorShape
from bitwright.store.skeleton import build_skeleton
from bitwright.store.source import open_source
from bitwright.store.source_error import SourceError
from store.small_models import GROUPED, reference


@pytest.fixture
def mapping(monkeypatch):
    """Gives the Llama class another conversion mapping, for one test."""
    import transformers.conversion_mapping as module

    def use(*transforms):
        module.get_checkpoint_conversion_mapping("legacy")
        monkeypatch.setattr(
            module, "_checkpoint_conversion_mapping_cache", dict(module._checkpoint_conversion_mapping_cache)
        )
        register_checkpoint_conversion_mapping("LlamaForCausalLM", list(transforms), overwrite=True)

    return use


def fuse_qkv(tensors):
    for layer in range(2):
        prefix = f"model.layers.{layer}.self_attn"
        parts = [tensors.pop(f"{prefix}.{part}_proj.weight") for part in ("q", "k", "v")]
        tensors[f"{prefix}.qkv.weight"] = torch.cat(parts)


def even_heads(folder, rewrite):
    import json

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 4}))

    def widen(tensors):
        for name in list(tensors):
            if "k_proj" in name or "v_proj" in name:
                tensors[name] = torch.randn(32, 32)

    rewrite(folder, widen)


SPLIT_QKV = WeightConverter(
    source_patterns="self_attn.qkv.weight",
    target_patterns=["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"],
    operations=[Chunk(dim=0)],
)


def test_one_checkpoint_tensor_becomes_three_and_one_again(llama, rewrite, mapping):
    even_heads(llama, rewrite)
    expected = reference(llama)
    rewrite(llama, fuse_qkv)
    mapping(SPLIT_QKV)
    source = open_source(llama)
    found = source.read(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    name = "model.layers.0.self_attn.k_proj.weight"
    assert source.checkpoint_names(name) == ("model.layers.0.self_attn.qkv.weight",)
    assert torch.equal(source.read([name])[name], expected[name])
    back = source.to_checkpoint(found)["model.layers.0.self_attn.qkv.weight"]
    assert torch.equal(back, torch.cat([expected[f"model.layers.0.self_attn.{p}_proj.weight"] for p in "qkv"]))


def test_a_third_of_a_fused_tensor_cannot_be_written_alone(llama, rewrite, mapping):
    even_heads(llama, rewrite)
    rewrite(llama, fuse_qkv)
    mapping(SPLIT_QKV)
    source = open_source(llama)
    name = "model.layers.0.self_attn.k_proj.weight"
    with pytest.raises(SourceError, match=r"q_proj.weight, .*v_proj.weight: give it too, because .*qkv.weight"):
        source.to_checkpoint(source.read([name]))


def test_a_transposed_tensor_under_an_older_name_is_turned_back(llama, rewrite, mapping):
    expected = reference(llama)

    def older(tensors):
        for layer in range(2):
            weight = tensors.pop(f"model.layers.{layer}.mlp.up_proj.weight")
            tensors[f"model.layers.{layer}.ffn.up.weight"] = weight.T.contiguous()

    rewrite(llama, older)
    mapping(
        WeightRenaming(r"\.ffn\.", ".mlp."),
        WeightConverter("mlp.up.weight", "mlp.up_proj.weight", operations=[Transpose(0, 1)]),
    )
    source = open_source(llama)
    found = source.read(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    name = "model.layers.1.mlp.up_proj.weight"
    back = source.to_checkpoint({name: expected[name]})
    assert back.keys() == {"model.layers.1.ffn.up.weight"}
    assert torch.equal(back["model.layers.1.ffn.up.weight"], expected[name].T)


class OneWay(ConversionOps):
    def convert(self, input_dict, source_patterns, target_patterns, **kwargs):
        return {target_patterns[0]: next(iter(input_dict.values()))[0] + 1}


def test_a_conversion_without_a_reverse_can_be_read_but_not_written(llama, rewrite, mapping):
    name = "model.layers.0.mlp.up_proj.weight"
    expected = reference(llama)[name]
    mapping(WeightConverter("mlp.up_proj.weight", "mlp.up_proj.weight", operations=[OneWay()]))
    source = open_source(llama)
    found = source.read([name])
    assert torch.equal(found[name], expected + 1)
    with pytest.raises(SourceError, match="no exact way back"):
        source.to_checkpoint(found)


def test_of_two_names_for_one_tensor_the_first_is_used_as_in_transformers(llama, rewrite, mapping):
    rewrite(llama, lambda tensors: tensors.update({"model.norm.gamma": torch.full((32,), 7.0)}))
    mapping(WeightRenaming(r"norm\.gamma", "norm.weight"))
    source = open_source(llama)
    assert source.unused() == ("model.norm.weight",)
    assert torch.equal(source.read(["model.norm.weight"])["model.norm.weight"], reference(llama)["model.norm.weight"])


def test_twelve_experts_are_stacked_by_number_and_not_by_spelling():
    config = transformers.MixtralConfig(**GROUPED, num_local_experts=12)
    model = build_skeleton(config, torch.float32)
    names = [f"model.layers.0.block_sparse_moe.experts.{expert}.w2.weight" for expert in range(12)]
    renames = plan_renames(model, dict.fromkeys(sorted(names), TensorShape((32, 48), torch.float32)))
    name = "model.layers.0.mlp.experts.down_proj"
    merged = renames.forward(renames.by_name[name], {n: torch.full((32, 48), float(i)) for i, n in enumerate(names)})
    assert torch.equal(merged[name][:, 0, 0], torch.arange(12.0))
    assert renames.shapes[name] == TensorShape((12, 32, 48), torch.float32)


def test_the_rows_of_stacked_experts_are_found():
    """Against the numbers themselves: each checkpoint tensor is those rows of the stack, and they are all of it."""
    model = build_skeleton(transformers.MixtralConfig(**GROUPED, num_local_experts=3), torch.float32)
    shapes = {"w1": (48, 32), "w2": (32, 48), "w3": (48, 32)}
    prefix = "model.layers.0.block_sparse_moe.experts"
    stored = {f"{prefix}.{i}.{w}.weight": TensorShape(shapes[w], torch.float32) for i in range(3) for w in shapes}
    renames = plan_renames(model, stored)
    tensors = {name: torch.randn(shape.shape) for name, shape in stored.items()}
    found = {}
    for name in ("model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"):
        conversion = renames.by_name[name]
        stack = renames.forward(conversion, {n: tensors[n] for n in conversion.checkpoint_names})[name]
        for part, rows in renames.rows(name).items():
            assert torch.equal(stack[rows.index, rows.start : rows.stop], tensors[part])
            found[part] = rows
    assert found.keys() == stored.keys()
    assert found[f"{prefix}.2.w3.weight"] == Rows(2, 48, 96)


def test_a_tensor_that_is_no_stack_has_no_rows(llama, rewrite, mapping):
    even_heads(llama, rewrite)
    rewrite(llama, fuse_qkv)
    mapping(SPLIT_QKV)
    source = open_source(llama)
    assert source.rows("model.layers.0.self_attn.q_proj.weight") == {}
    assert source.rows("model.norm.weight") == {}
