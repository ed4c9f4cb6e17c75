"""Shards: nothing is lost, none is much larger than wanted, and the index says where everything is."""

import json
from pathlib import Path

import numpy as np
import torch

from bitwright.export.checkpoint import write_weights
from export.decoder import read_folder

GROUPS = [{f"block{i}.{j}": torch.full((10,), 10.0 * i + j) for j in range(3)} for i in range(4)]  # 120 bytes each


def written(folder: Path, shard_bytes: int) -> list[str]:
    folder.mkdir()
    write_weights(GROUPS, folder, shard_bytes)
    found = read_folder(folder)
    assert {name: tensor.numpy().tolist() for group in GROUPS for name, tensor in group.items()} == {
        name: np.asarray(array).tolist() for name, array in found.items()
    }
    return sorted(file.name for file in folder.iterdir())


def test_what_fits_one_shard_is_one_file_without_an_index(tmp_path: Path) -> None:
    assert written(tmp_path / "one", 480) == ["model.safetensors"]


def test_groups_share_a_shard_while_it_has_room(tmp_path: Path) -> None:
    names = written(tmp_path / "two", 360)
    assert names == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "two" / names[-1]).read_text())
    assert index["metadata"]["total_size"] == 480
    assert index["weight_map"]["block2.0"] == names[0]
    assert index["weight_map"]["block3.0"] == names[1]


def test_a_group_larger_than_a_shard_is_a_shard_of_its_own(tmp_path: Path) -> None:
    assert len(written(tmp_path / "four", 1)) == 5
