"""Skeletons: parameters on meta, buffers real, sharing kept."""

import threading

import pytest
import torch
import transformers
from torch import nn

from bitwright.store.skeleton import HugeOnMeta, build_skeleton, parameters_on_meta, tie
from store.small_models import GROUPED


class Marked(nn.Parameter):
    pass


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.own = Marked(torch.ones(2), requires_grad=False)
        self.register_parameter("none", None)
        self.register_buffer("table", torch.arange(4.0))
        kept = nn.Parameter(torch.ones(2))
        kept.note = "kept"
        self.noted = kept


def test_parameters_move_to_meta_with_class_gradient_flag_and_attributes():
    with parameters_on_meta():
        toy = Toy()
    assert all(parameter.is_meta for parameter in toy.parameters())
    assert type(toy.own) is Marked and not toy.own.requires_grad
    assert toy.first.bias.requires_grad and toy.noted.note == "kept" and toy.none is None


def test_buffers_stay_real_and_a_shared_parameter_stays_shared():
    with parameters_on_meta():
        toy = Toy()
    assert torch.equal(toy.table, torch.arange(4.0))
    assert toy.second.weight is toy.first.weight


def test_modules_are_built_as_usual_afterwards_and_in_other_threads():
    made = []
    with parameters_on_meta():
        thread = threading.Thread(target=lambda: made.append(nn.Linear(2, 2)))
        thread.start()
        thread.join()
    with pytest.raises(ZeroDivisionError), parameters_on_meta():
        raise ZeroDivisionError
    assert not made[0].weight.is_meta and not nn.Linear(2, 2).weight.is_meta


def test_a_model_of_seventy_billion_parameters_is_built_without_memory():
    config = transformers.LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64
    )
    model = build_skeleton(config, torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) > 60e9
    assert all(parameter.is_meta and parameter.dtype == torch.bfloat16 for parameter in model.parameters())


def test_the_config_asked_for_is_not_changed():
    config = transformers.LlamaConfig(**GROUPED)
    before = config.to_dict()
    model = build_skeleton(config, torch.float16)
    assert config.to_dict() == before and config.use_cache
    assert not model.config.use_cache and model.config._attn_implementation == "sdpa"


def test_attention_is_eager_where_the_model_has_no_other():
    config = transformers.BloomConfig(vocab_size=160, hidden_size=32, n_layer=2, n_head=4)
    assert build_skeleton(config, torch.float32).config._attn_implementation == "eager"


def test_tie_makes_two_names_one_parameter():
    model = build_skeleton(transformers.LlamaConfig(**GROUPED), torch.float32)
    tie(model, {"lm_head.weight": "model.embed_tokens.weight"})
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_huge_tensors_are_made_without_memory_and_others_for_real():
    with HugeOnMeta():
        assert torch.zeros(1 << 15, 1 << 14).is_meta and torch.empty((1 << 15, 1 << 14)).is_meta
        assert not torch.zeros(8, 8).is_meta and not torch.ones((1 << 13, 1 << 13), dtype=torch.bool).is_meta
