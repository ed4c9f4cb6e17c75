"""A checkpoint that does not fit its config.json is refused when it is opened; a broken number when it is read."""

import json

import pytest
import torch

from bitwright.store.source import open_source
from bitwright.store.source_error import SourceError


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_a_missing_parameter_is_named(llama, rewrite):
    rewrite(llama, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(
        SourceError, match=r"lacks model.layers.1.mlp.up_proj.weight, needed .*\(not used by it: none\)"
    ):
        open_source(llama)


def test_many_missing_parameters_are_counted(llama):
    edit_config(llama, num_hidden_layers=3)
    with pytest.raises(SourceError, match=r"lacks model.layers.2.* and 4 more"):
        open_source(llama)


def test_a_tied_tensor_of_which_no_copy_is_stored_is_missing(llama, rewrite):
    edit_config(llama, tie_word_embeddings=True)
    rewrite(llama, lambda tensors: (tensors.pop("model.embed_tokens.weight"), tensors.pop("lm_head.weight")))
    with pytest.raises(SourceError, match=r"lacks .*model.embed_tokens.weight"):
        open_source(llama)


def test_another_shape_than_the_models_is_refused(llama, rewrite):
    rewrite(llama, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(31)}))
    with pytest.raises(
        SourceError, match=r"model.norm.weight \(model.norm.weight in .*\): .* shape \(31,\), .* \(32,\)"
    ):
        open_source(llama)


def test_a_lost_expert_is_found(mixtral, rewrite):
    rewrite(mixtral, lambda tensors: tensors.pop("model.layers.0.block_sparse_moe.experts.2.w2.weight"))
    message = r"experts.down_proj \(.*w2.weight and 2 more .*\): .* shape \(3, 32, 48\), .* \(4, 32, 48\)"
    with pytest.raises(SourceError, match=message):
        open_source(mixtral)


def test_experts_that_cannot_be_stacked_are_found(mixtral, rewrite):
    name = "model.layers.0.block_sparse_moe.experts.2.w2.weight"
    rewrite(mixtral, lambda tensors: tensors.update({name: torch.zeros(5, 5)}))
    with pytest.raises(SourceError, match=r"\(4 tensors\) cannot become model.layers.0.mlp.experts.down_proj"):
        open_source(mixtral)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_weights_that_are_no_plain_floats_are_refused(llama, rewrite, dtype):
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(llama, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    with pytest.raises(SourceError, match=f"{name} is stored as {dtype}; .* quantized already"):
        open_source(llama)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_found_when_its_tensor_is_read(llama, rewrite, value):
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(llama, lambda tensors: tensors[name].view(-1)[7].fill_(value))
    source = open_source(llama)
    source.read(["model.norm.weight"])
    with pytest.raises(SourceError, match=rf"{name} .*: 1 of 1536 numbers are NaN or infinite"):
        source.read(["model.norm.weight", name])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("place", [0, 1, 31, 700, 1535])
def test_nan_is_found_in_every_dtype_and_place(llama, rewrite, dtype, place):
    name = "model.layers.0.mlp.up_proj.weight"
    edit_config(llama, dtype=str(dtype).removeprefix("torch."))
    rewrite(llama, lambda tensors: tensors[name].view(-1)[place].fill_(float("nan")))
    with pytest.raises(SourceError, match="1 of 1536"):
        open_source(llama).read([name])


def test_a_number_too_large_for_the_configs_dtype_is_not_finite(llama, rewrite):
    edit_config(llama, dtype="float16")
    rewrite(llama, lambda tensors: tensors["model.norm.weight"][0].fill_(1e6))
    with pytest.raises(SourceError, match=r"infinite in torch.float16"):
        open_source(llama).read(["model.norm.weight"])


def test_a_broken_expert_is_found_under_the_merged_name(mixtral, rewrite):
    name = "model.layers.0.block_sparse_moe.experts.2.w2.weight"
    rewrite(mixtral, lambda tensors: tensors[name][0, 0].fill_(float("nan")))
    with pytest.raises(SourceError, match="mlp.experts.down_proj .*: 1 of 6144 numbers"):
        open_source(mixtral).read(["model.layers.0.mlp.experts.down_proj"])
