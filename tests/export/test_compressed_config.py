"""quantization_config: one group per storage, everything that was kept on the ignore list."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from bitwright.export import CompressedTensors, export
from bitwright.export.compressed_config import Stored, linears, quantization_config
from bitwright.export.schemes import find_scheme
from bitwright.numerics import PER_ROW, Float8, Int, Spec
from bitwright.recipe.recipe import Recipe, Rule
from bitwright.store.artifact import Artifact
from bitwright.store.layout import open_layout, write_layout
from bitwright.store.source import open_source
from export.artifacts import SPECS, llama_config, make
from store.small_models import save


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def test_one_storage_is_one_group_for_every_linear(small: Artifact, tmp_path: Path) -> None:
    export(small, CompressedTensors(), tmp_path)
    config = config_of(tmp_path)
    assert config["format"] == "pack-quantized"
    assert config["ignore"] == ["lm_head"]
    assert [group["targets"] for group in config["config_groups"].values()] == [["Linear"]]
    assert transformers.AutoConfig.from_pretrained(tmp_path).quantization_config["quantization_status"] == "compressed"


def test_the_rest_of_the_configuration_is_the_sources(
    small: Artifact, sources: dict[str, Path], tmp_path: Path
) -> None:
    export(small, CompressedTensors(), tmp_path)
    found = json.loads((tmp_path / "config.json").read_text())
    assert found.pop("quantization_config")
    assert found == json.loads((sources["llama"] / "config.json").read_text())


def test_several_storages_are_groups_that_name_their_modules(every: Artifact, tmp_path: Path) -> None:
    export(every, CompressedTensors(), tmp_path)
    config = config_of(tmp_path)
    targets = [target for group in config["config_groups"].values() for target in group["targets"]]
    assert sorted(targets) == sorted(entry.name for entry in every.entries)
    assert config["format"] == "mixed-precision"
    assert {group["format"] for group in config["config_groups"].values()} == {"pack-quantized", "float-quantized"}
    # two specs that are stored alike (signed and unsigned codes with a zero) are one group
    assert len(config["config_groups"]) == len({find_scheme(spec) for spec in SPECS.values()}) == len(SPECS) - 1
    kept = linears(open_layout(every.path / "source")) - set(targets)
    assert set(config["ignore"]) == kept


def test_integers_of_two_widths_are_one_format(sources: dict[str, Path], tmp_path: Path) -> None:
    recipe = Recipe((Rule("*down_proj", Spec(Int(8), PER_ROW)), Rule("*", Spec(Int(4), PER_ROW))))
    export(make(sources["llama"], tmp_path / "artifact", recipe), CompressedTensors(), tmp_path / "out")
    assert config_of(tmp_path / "out")["format"] == "pack-quantized"


def test_where_names_differ_both_stand(tmp_path: Path) -> None:
    """A checkpoint saved from the bare model lacks the prefix that the causal language model puts before it."""
    source = save(tmp_path / "source", llama_config(tie_word_embeddings=True), dtype=torch.bfloat16)
    model = transformers.AutoModel.from_pretrained(source)
    model.save_pretrained(tmp_path / "bare")
    layout = open_source(tmp_path / "bare")
    assert "layers.0.mlp.up_proj.weight" in layout.stored()
    write_layout(layout, tmp_path / "layout")
    int4, float8 = find_scheme(Spec(Int(4), PER_ROW)), find_scheme(Spec(Float8(), PER_ROW))
    stored = [
        Stored(f"layers.{layer}.mlp.up_proj", f"model.layers.{layer}.mlp.up_proj", scheme)
        for layer, scheme in enumerate((int4, float8))
    ]
    config = quantization_config(open_layout(tmp_path / "layout"), stored)
    targets = [group["targets"] for group in config["config_groups"].values()]
    assert ["model.layers.0.mlp.up_proj", "layers.0.mlp.up_proj"] in targets
    assert {"model.layers.0.mlp.down_proj", "layers.0.mlp.down_proj", "lm_head"} <= set(config["ignore"])


def test_routers_are_left_alone_by_name_whatever_module_they_are(sources: dict[str, Path], tmp_path: Path) -> None:
    artifact = make(sources["mixtral"], tmp_path / "artifact", Recipe((Rule("*", Spec(Int(4), PER_ROW)),)))
    export(artifact, CompressedTensors(), tmp_path / "out")
    ignored = config_of(tmp_path / "out")["ignore"]
    assert {f"model.layers.{layer}.block_sparse_moe.gate" for layer in range(2)} <= set(ignored)
    assert "model.embed_tokens" not in ignored
