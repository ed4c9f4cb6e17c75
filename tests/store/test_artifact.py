"""The artifact: weights as their users need them, sizes as they are on disk, and folders that are not whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from bitwright.numerics import Float, FloatKind, Int, Spec, per_group
from bitwright.quantize import quantize
from bitwright.recipe.recipe import Recipe, Rule
from bitwright.solvers import Nearest
from bitwright.store.artifact import Artifact, ArtifactError, block_file, open_artifact, read_block, write_block
from bitwright.store.source import open_source
from engine.tiny import clone, contents, flip, model

RECIPE = Recipe(
    (
        Rule("kind:embedding", Spec(Int(8), per_group(16), scale=Spec(Float(FloatKind.FLOAT16)))),
        Rule("*", Spec(Int(4), per_group(16), scale=Spec(Float(FloatKind.FLOAT32)))),
    ),
    solver=Nearest(),
)


@pytest.fixture(scope="module", params=["dense", "transposed", "routed"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact]:
    """A model's folder and its artifact; read only."""
    folder = tmp_path_factory.mktemp(request.param)
    source = model(folder / "model", request.param)
    return source, quantize(source, RECIPE, folder / "out")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The artifact of a dense model; read only."""
    folder = tmp_path_factory.mktemp("artifact")
    return quantize(model(folder / "model"), RECIPE, folder / "out")


def unpacked(arrays: dict[str, Tensor], name: str, width: int, shape: tuple[int, int]) -> Tensor:
    """Codes minus their offset times scales, by hand: codes lie one after the other, the lowest bits first."""
    octets = arrays[f"q.{name}.codes"].to(torch.int64)
    bits = (octets[:, None] >> torch.arange(8)).bitwise_and(1).reshape(-1)[: width * shape[0] * shape[1]]
    codes = (bits.reshape(-1, width) << torch.arange(width)).sum(1) - 2 ** (width - 1)
    scales = arrays[f"q.{name}.scale.codes"]
    scales = scales.view({4: torch.float32, 8: torch.float16}[width]).reshape(shape[0], -1).float()
    return codes.reshape(shape) * scales.repeat_interleave(16, dim=1)


def test_parameters_are_codes_times_scales_in_the_places_of_the_originals(made: tuple[Path, Artifact]) -> None:
    _, artifact = made
    found = 0
    for block, file in artifact.parts():
        parameters, arrays = artifact.parameters(block), load_file(file)
        for entry in (entry for entry in artifact.entries if entry.block == block):
            matrix = unpacked(arrays, entry.name, 8 if block is None else 4, entry.shape)
            stored = parameters[entry.parameter]
            stored = stored if entry.index is None else stored[entry.index]
            assert torch.equal(stored.T if entry.transposed else stored, matrix), entry.name
            assert torch.equal(artifact.qtensors(block)[entry.name].dequantize(), matrix), entry.name
            found += 1
    assert found == len(artifact.manifest["weights"]) > 6


def test_all_parameters_are_there_with_the_shape_of_the_originals_and_near_them(made: tuple[Path, Artifact]) -> None:
    source = open_source(made[0])
    originals = source.read(source.parameters())
    seen: dict[str, Tensor] = {}
    for block, _ in made[1].parts():
        seen |= made[1].parameters(block)
    assert seen.keys() == originals.keys()
    for name, tensor in seen.items():
        assert tensor.shape == originals[name].shape and tensor.is_contiguous(), name
        assert (tensor - originals[name]).norm() <= 0.12 * originals[name].norm(), name


def test_they_load_into_the_model(made: tuple[Path, Artifact]) -> None:
    whole = transformers.AutoModelForCausalLM.from_pretrained(made[0])
    unset = set(whole.state_dict())
    for block, _ in made[1].parts():
        result = whole.load_state_dict(made[1].parameters(block), strict=False)
        assert not result.unexpected_keys
        unset &= set(result.missing_keys)
    assert unset <= set(made[1].manifest["tied"])


def test_parameters_come_in_the_type_that_is_asked_for(artifact: Artifact) -> None:
    entry = artifact.entries[-1]
    wanted = artifact.qtensors(entry.block)[entry.name].dequantize()
    for dtype in (torch.bfloat16, torch.float16):
        found = artifact.parameters(entry.block, dtype)[entry.parameter]
        assert torch.equal(found, wanted.to(dtype))


def test_its_size_is_that_of_all_files_but_the_notes_of_the_run(made: tuple[Path, Artifact]) -> None:
    artifact = made[1]
    files = contents(artifact.path)
    notes = {"plan.json", "outside.json", *(f"blocks/{file.stem}.json" for _, file in artifact.parts())}
    assert notes & files.keys()
    assert artifact.bytes == sum(len(data) for name, data in files.items() if name not in notes)


def test_the_bits_of_the_manifest_are_those_of_the_stored_arrays(made: tuple[Path, Artifact]) -> None:
    arrays = {key: array for _, file in made[1].parts() for key, array in load_file(file).items()}
    stored = sum(array.nbytes for key, array in arrays.items() if key.startswith("q."))
    assert sum(weight["bits"] for weight in made[1].manifest["weights"]) == 8 * stored > 0
    for weight in made[1].manifest["weights"]:
        own = [array.nbytes for key, array in arrays.items() if key.startswith(f"q.{weight['name']}.")]
        assert 8 * sum(own) == weight["bits"] == weight["code_bits"] + weight["scale_bits"] + weight["zero_bits"]


def test_kept_bytes_are_those_of_the_ledger(made: tuple[Path, Artifact]) -> None:
    kept = {name: tensor for block, _ in made[1].parts() for name, tensor in made[1].kept(block).items()}
    ledger = {one["name"]: one["bytes"] for one in made[1].manifest["kept"]}
    assert {name: tensor.nbytes for name, tensor in kept.items()} == ledger


def test_a_folder_without_an_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a finished artifact.*give the folder that quantize wrote"):
        open_artifact(tmp_path)


def test_an_unfinished_artifact_says_how_to_finish_it(artifact: Artifact, tmp_path: Path) -> None:
    out = clone(artifact.path, tmp_path / "out")
    (out / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="not a finished artifact.*run the same quantize command again to finish"):
        open_artifact(out)


@pytest.mark.parametrize("file", ["blocks/00001.safetensors", "outside.safetensors"])
def test_a_damaged_or_missing_file_is_named(file: str, artifact: Artifact, tmp_path: Path) -> None:
    out = clone(artifact.path, tmp_path / "out")
    flip(out / file, -7)
    with pytest.raises(ArtifactError, match=f"{file} is damaged .*; run the same quantize command again"):
        open_artifact(out)
    (out / file).unlink()
    with pytest.raises(ArtifactError, match=f"{file} is missing; run the same quantize command again"):
        open_artifact(out)


def test_a_damaged_manifest_is_named(artifact: Artifact, tmp_path: Path) -> None:
    out = clone(artifact.path, tmp_path / "out")
    (out / "manifest.json").write_bytes((out / "manifest.json").read_bytes()[:-40])
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged .*run the same command again"):
        open_artifact(out)


@pytest.mark.parametrize("number", [0, 2, "1", None])
def test_a_manifest_of_another_format_is_refused(number: object, artifact: Artifact, tmp_path: Path) -> None:
    out = clone(artifact.path, tmp_path / "out")
    data = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(data | {"format": number}))
    with pytest.raises(ArtifactError, match="format 1 is what this version reads"):
        open_artifact(out)


def test_a_stored_block_is_believed_only_whole_and_under_its_own_key(tmp_path: Path) -> None:
    kept = {"norm": torch.ones(4)}
    write_block(tmp_path, 0, "key", ({}, kept), {"error": 0.1})
    assert read_block(tmp_path, 0, "key") == {"error": 0.1}
    assert read_block(tmp_path, 0, "another key") is None
    assert read_block(tmp_path, 1, "key") is None
    note = block_file(tmp_path, 0).with_suffix(".json")
    whole = note.read_text()
    for damaged in (whole.replace("0.1", "0.2"), whole[:-9], "[]", "{}", '{"key": "key"}', ""):
        note.write_text(damaged)
        assert read_block(tmp_path, 0, "key") is None, damaged
    note.write_text(whole)
    assert read_block(tmp_path, 0, "key") == {"error": 0.1}
    flip(block_file(tmp_path, 0), -1)
    assert read_block(tmp_path, 0, "key") is None
