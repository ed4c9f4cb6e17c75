"""Dense checkpoints: the source's own names and shapes, the artifact's numbers, any architecture and format."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from bitwright.export import Dense, ExportError, export
from bitwright.numerics import E2M1, NF4, PER_TENSOR, Float8, Int, Spec, per_group
from bitwright.recipe.recipe import Recipe, Rule
from bitwright.store.artifact import Artifact
from export.artifacts import make
from store.small_models import save_with_vision

NVFP4 = Spec(E2M1(), per_group(16), scale=Spec(Float8(), PER_TENSOR))


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def loaded(folder: Path, **options: object) -> Mapping[str, Tensor]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    return model.state_dict()


def assert_equals_artifact(folder: Path, artifact: Artifact, dtype: torch.dtype) -> None:
    """transformers loads from the folder what the artifact stands for, bit for bit."""
    model = loaded(folder, dtype=dtype)
    count = 0
    for block, _ in artifact.parts():
        for name, tensor in artifact.parameters(block, dtype).items():
            assert torch.equal(model[name], tensor.to(dtype)), name
            count += 1
    assert count + len(artifact.manifest["tied"]) == len(model)


@pytest.mark.parametrize("spec", [Spec(NF4, per_group(16)), NVFP4, Spec(Int(3), per_group(16))], ids=str)
@pytest.mark.parametrize("name", ["llama", "tied", "gpt2", "mixtral"])
def test_a_dense_checkpoint_is_the_source_with_the_artifacts_numbers(
    sources: dict[str, Path], name: str, spec: Spec, tmp_path: Path
) -> None:
    artifact = make(sources[name], tmp_path / "artifact", spec)
    assert len(artifact.entries) > 4
    export(artifact, Dense(), tmp_path / "out")
    before, after = stored(sources[name]), stored(tmp_path / "out")
    assert {name: (t.shape, t.dtype) for name, t in before.items()} == {n: (t.shape, t.dtype) for n, t in after.items()}
    assert (tmp_path / "out" / "config.json").read_bytes() == (sources[name] / "config.json").read_bytes()
    assert_equals_artifact(tmp_path / "out", artifact, torch.bfloat16)


def test_what_reads_pictures_is_written_as_it_was(tmp_path: Path) -> None:
    source = save_with_vision(tmp_path / "model")
    artifact = make(source, tmp_path / "artifact", Spec(Int(4), per_group(16)))
    export(artifact, Dense(), tmp_path / "out")
    before, after = stored(source), stored(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    vision = {name for name in before if "visual" in name}
    assert len(vision) > 20 and not changed & vision
    assert {f"{entry.name}.weight" for entry in artifact.entries} == changed
    assert not artifact.manifest["unused"]


def test_float32_keeps_every_bit_of_the_dequantized_weights(small: Artifact, tmp_path: Path) -> None:
    report = export(small, Dense(torch.float32), tmp_path)
    assert report.notes == ()
    assert {tensor.dtype for tensor in stored(tmp_path).values()} == {torch.float32}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    assert_equals_artifact(tmp_path, small, torch.float32)


def test_rounding_to_the_sources_dtype_is_noted(small: Artifact, tmp_path: Path) -> None:
    assert "rounded to bfloat16" in export(small, Dense(), tmp_path).notes[0]


def test_a_tied_table_is_written_once_with_its_quantized_values(sources: dict[str, Path], tmp_path: Path) -> None:
    recipe = Recipe((Rule("kind:embedding", Spec(Int(8), per_group(16))),))
    artifact = make(sources["tied"], tmp_path / "artifact", recipe)
    export(artifact, Dense(), tmp_path / "out")
    assert stored(tmp_path / "out").keys() == stored(sources["tied"]).keys()
    assert_equals_artifact(tmp_path / "out", artifact, torch.bfloat16)


def test_shards_load_like_one_file(small: Artifact, tmp_path: Path) -> None:
    export(small, Dense(), tmp_path / "one")
    report = export(small, Dense(shard_bytes=20_000), tmp_path / "many")
    assert sum(name.endswith(".safetensors") for name in report.files) > 2
    one, many = loaded(tmp_path / "one"), loaded(tmp_path / "many")
    assert all(torch.equal(one[name], many[name]) for name in one.keys() | many.keys())


def test_a_dtype_that_is_no_float_is_refused(small: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"found torch\.int8"):
        export(small, Dense(torch.int8), tmp_path)
