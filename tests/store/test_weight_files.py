"""The weight files of a folder: what is found, what is refused, and what is read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bitwright.store.source import open_source
from bitwright.store.source_error import SourceError
from bitwright.store.weight_files import find_weight_files
from store.small_models import reference


def edit_index(folder: Path, change) -> None:
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


def as_pickle(folder: Path, **options) -> Path:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin", **options)
    (folder / "model.safetensors").unlink()
    return folder


def test_a_folder_without_weights_says_which_file_is_needed(llama):
    (llama / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="no weights found; model.safetensors"):
        open_source(llama)


def test_a_missing_shard_is_named(sharded):
    gone = sorted(sharded.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(SourceError, match=f"weight_map names '{gone.name}', which is missing"):
        open_source(sharded)


def test_a_truncated_shard_is_found_when_the_folder_is_opened(sharded):
    file = sorted(sharded.glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(SourceError, match=f"{file.name}: truncated"):
        open_source(sharded)


@pytest.mark.parametrize(
    "shard",
    ["/etc/weights.safetensors", "../w.safetensors", "a/../../w.safetensors", "C:\\w.safetensors", "..\\w.safetensors"],
)
def test_an_index_that_points_outside_the_folder_is_refused(sharded, shard):
    edit_index(sharded, lambda names: names.update({"model.norm.weight": shard}))
    with pytest.raises(SourceError, match="lies outside the folder"):
        open_source(sharded)


def test_an_index_of_safetensors_cannot_name_a_pickle(sharded):
    (sharded / "evil.bin").write_bytes(b"")
    edit_index(sharded, lambda names: names.update({"model.norm.weight": "evil.bin"}))
    with pytest.raises(SourceError, match="'evil.bin', a pickle"):
        open_source(sharded, allow_pickle=True)


def test_an_index_cannot_name_other_kinds_of_file(sharded):
    edit_index(sharded, lambda names: names.update({"model.norm.weight": "config.json"}))
    with pytest.raises(SourceError, match="end in .safetensors or .bin"):
        open_source(sharded)


def test_an_index_that_is_wrong_about_a_tensor_is_refused(sharded):
    names = sorted(file.name for file in sharded.glob("*.safetensors"))
    edit_index(sharded, lambda index: index.update({"model.more.weight": names[0]}))
    with pytest.raises(SourceError, match=f"{names[0]}: tensor 'model.more.weight' is not in it"):
        open_source(sharded)


@pytest.mark.parametrize(
    "text, message", [("{", "not JSON"), ("[]", "no weight_map"), ('{"weight_map": {}}', "no weight_map")]
)
def test_an_unusable_index_is_refused(sharded, text, message):
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(SourceError, match=message):
        open_source(sharded)


def test_shards_may_be_links_as_in_the_hubs_cache(sharded, tmp_path):
    (tmp_path / "blobs").mkdir()
    for file in sorted(sharded.glob("*.safetensors")):
        (tmp_path / "blobs" / file.name).write_bytes(file.read_bytes())
        file.unlink()
        file.symlink_to(tmp_path / "blobs" / file.name)
    source = open_source(sharded)
    assert source.read(source.parameters()).keys() == source.parameters().keys()


def test_a_file_that_shrank_after_it_was_opened_is_an_error(llama):
    source = open_source(llama)
    (llama / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(SourceError, match="Did it change"):
        source.read(["model.norm.weight"])


def test_pickles_are_refused_unless_allowed(llama):
    with pytest.raises(SourceError, match="only pickled weights .* allow_pickle=True"):
        open_source(as_pickle(llama))


@pytest.mark.parametrize("is_zip", [True, False])
def test_allowed_pickles_are_read(llama, is_zip):
    expected = reference(llama)
    source = open_source(as_pickle(llama, _use_new_zipfile_serialization=is_zip), allow_pickle=True)
    for name, tensor in source.read(expected).items():
        assert torch.equal(tensor, expected[name]), name


def test_sharded_pickles_are_read(llama):
    tensors = load_file(llama / "model.safetensors")
    (llama / "model.safetensors").unlink()
    homes = {name: f"pytorch_model-{number % 2}.bin" for number, name in enumerate(tensors)}
    for home in set(homes.values()):
        torch.save({name: tensor for name, tensor in tensors.items() if homes[name] == home}, llama / home)
    (llama / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": homes}))
    source = open_source(llama, allow_pickle=True)
    for name, tensor in source.read(tensors).items():
        assert torch.equal(tensor, tensors[name]), name


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


def test_an_allowed_pickle_still_runs_no_code(llama, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (llama / "model.safetensors").unlink()
    torch.save({"w": Harmful()}, llama / "pytorch_model.bin")
    with pytest.raises(SourceError, match="not plain pickled tensors"):
        open_source(llama, allow_pickle=True)
    assert not (tmp_path / "harm").exists()


def test_a_pickle_of_something_else_is_refused(llama):
    (llama / "model.safetensors").unlink()
    torch.save({"state_dict": {"w": torch.zeros(1)}}, llama / "pytorch_model.bin")
    with pytest.raises(SourceError, match="more than a flat list of tensors"):
        open_source(llama, allow_pickle=True)


def test_safetensors_win_over_pickles(llama):
    torch.save({}, llama / "pytorch_model.bin")
    assert find_weight_files(llama).files == (llama / "model.safetensors",)
