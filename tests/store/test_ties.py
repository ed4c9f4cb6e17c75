"""Ties follow the checkpoint, as they do in transformers, whatever the config says."""

import pytest
import torch
import transformers

from bitwright.store.source import open_source
from store.small_models import GROUPED, reference, save

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture
def tied(tmp_path):
    return save(tmp_path, transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True))


def assert_reads_as_transformers_does(folder):
    source, loaded = open_source(folder), reference(folder)
    for name, tensor in source.read(loaded).items():
        assert torch.equal(tensor, loaded[name]), name
    return source


def test_the_alias_of_a_tied_tensor_is_known(tied):
    source = assert_reads_as_transformers_does(tied)
    assert source.tied() == {HEAD: EMBEDDING}
    assert HEAD not in source.parameters()
    model = source.skeleton()
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_an_untied_model_has_no_alias(llama):
    source = assert_reads_as_transformers_does(llama)
    assert source.tied() == {} and HEAD in source.parameters()


def test_if_only_the_head_is_stored_the_embedding_is_its_alias(tied, rewrite):
    rewrite(tied, lambda tensors: tensors.update({HEAD: tensors.pop(EMBEDDING)}))
    source = assert_reads_as_transformers_does(tied)
    assert source.tied() == {EMBEDDING: HEAD}
    assert source.to_checkpoint(source.read([EMBEDDING])).keys() == {HEAD}


def test_equal_tensors_that_are_stored_twice_are_tied_and_written_twice(tied, rewrite):
    rewrite(tied, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    source = assert_reads_as_transformers_does(tied)
    assert source.tied() == {HEAD: EMBEDDING}
    assert source.checkpoint_names(HEAD) == (EMBEDDING, HEAD)
    assert source.to_checkpoint(source.read([EMBEDDING])).keys() == {EMBEDDING, HEAD}


def test_different_tensors_are_not_tied_whatever_the_config_says(tied, rewrite):
    rewrite(tied, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING] + 1}))
    source = assert_reads_as_transformers_does(tied)
    assert source.tied() == {}
    assert source.skeleton().lm_head.weight is not source.skeleton().model.embed_tokens.weight
