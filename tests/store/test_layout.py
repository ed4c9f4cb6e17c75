"""Layouts: all that a source knows about its checkpoint, without the weights."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from bitwright.store.layout import LAYOUT, open_layout, write_layout
from bitwright.store.source import Source, open_source
from bitwright.store.source_error import SourceError
from store.small_models import GROUPED, SIZES, save

CONFIGS = {
    "llama": transformers.LlamaConfig(**GROUPED),
    "tied": transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "mixtral": transformers.MixtralConfig(**GROUPED, num_local_experts=4),
    "gptneox": transformers.GPTNeoXConfig(**SIZES),
}


def both(folder: Path) -> tuple[Source, Source]:
    """The source, and its layout once the source is gone."""
    source = open_source(folder)
    layout = folder.parent / "layout"
    write_layout(source, layout)
    return source, open_layout(layout)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_layout_says_what_its_source_says(name: str, tmp_path: Path) -> None:
    source, layout = both(save(tmp_path / "source", CONFIGS[name], dtype=torch.bfloat16))
    assert dict(layout.parameters()) == dict(source.parameters())
    assert dict(layout.stored()) == dict(source.stored())
    assert dict(layout.tied()) == dict(source.tied())
    assert (layout.dtype, layout.bytes, layout.unused()) == (source.dtype, source.bytes, source.unused())
    assert [file.name for file in layout.side_files()] == [file.name for file in source.side_files()]
    assert layout.skeleton().state_dict().keys() == source.skeleton().state_dict().keys()
    for parameter in source.parameters():
        assert layout.checkpoint_names(parameter) == source.checkpoint_names(parameter)
        assert layout.renamed(parameter) == source.renamed(parameter)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_layout_gives_tensors_their_names_in_the_checkpoint_back(name: str, tmp_path: Path) -> None:
    source, layout = both(save(tmp_path / "source", CONFIGS[name], dtype=torch.bfloat16))
    found = layout.to_checkpoint(source.read(source.parameters()))
    stored = load_file(tmp_path / "source" / "model.safetensors")
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in stored.items())


def test_a_merged_tensor_is_no_renamed_one(mixtral: Path) -> None:
    layout = both(mixtral)[1]
    renamed = {name: layout.renamed(name) for name in layout.parameters()}
    assert {name for name, found in renamed.items() if found is None} == {n for n in renamed if ".experts." in n}


def test_tied_tensors_that_are_stored_twice_need_no_weights_to_be_known(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True)
    folder = save(tmp_path / "source", config)
    from safetensors.torch import save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    source, layout = both(folder)
    assert dict(layout.tied()) == dict(source.tied()) != {}
    table = source.read(["model.embed_tokens.weight"])
    assert layout.to_checkpoint(table).keys() == {"lm_head.weight", "model.embed_tokens.weight"}


def test_weights_cannot_be_read_from_a_layout(llama: Path) -> None:
    layout = both(llama)[1]
    with pytest.raises(SourceError, match=r"layout\.json: only names and shapes of the weights are kept here"):
        layout.read(["lm_head.weight"])
    with pytest.raises(SourceError, match="Read the artifact"):
        layout.digest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"tensors": [], "tied": {}}',
        '{"tensors": {"a": []}, "tied": {}}',
        '{"tensors": {"a": ["BF16", -1]}, "tied": {}}',
        '{"tensors": {"a": ["BF16", "2"]}, "tied": {}}',
        '{"tensors": {"a": ["B16", 2]}, "tied": {}}',
        '{"tensors": {}, "tied": 3}',
        "[" * 100_000,
    ],
)
def test_a_damaged_layout_is_named(llama: Path, text: str) -> None:
    folder = both(llama)[1].path
    (folder / LAYOUT).write_text(text)
    with pytest.raises(SourceError, match=r"layout\.json is damaged"):
        open_layout(folder)


def test_a_layout_that_does_not_fit_its_configuration_is_refused(llama: Path) -> None:
    folder = both(llama)[1].path
    content = json.loads((folder / LAYOUT).read_text())
    del content["tensors"]["lm_head.weight"]
    (folder / LAYOUT).write_text(json.dumps(content))
    with pytest.raises(SourceError, match=r"the checkpoint lacks lm_head\.weight"):
        open_layout(folder)


def test_a_folder_without_a_layout_says_what_to_do(llama: Path) -> None:
    with pytest.raises(SourceError, match=r"layout\.json is missing.*Quantize again"):
        open_layout(llama)
