"""`export` for whole networks: a file elsewhere, and what is known of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from cli.conftest import call, refused


def test_the_file_is_the_same_as_inside_the_artifact_and_that_it_was_not_verified_is_said(
    quantized: Path, tmp_path: Path
) -> None:
    found = call("export", quantized, "--to", "onnx", "-o", tmp_path / "out", "--json")
    assert found.exit_code == 0, found.output
    data = json.loads(found.stdout)
    assert Path(data["file"]).read_bytes() == (quantized / "export" / "onnx" / "model.onnx").read_bytes()
    assert data["delivery"] is None and "not verified" in found.stderr
    assert "not verified" not in call("export", quantized, "--to", "onnx", "-o", tmp_path / "out", "--no-verify").stderr


@pytest.mark.slow
def test_the_file_is_verified_with_the_original_and_samples(
    quantized: Path, residual: tuple[Path, Path], tmp_path: Path
) -> None:
    found = call(
        "export", quantized, "--to", "onnx", "-o", tmp_path, "--against", residual[0], "--data", residual[1], "--json"
    )
    assert found.exit_code == 0, found.output
    delivery = json.loads(found.stdout)["delivery"]
    assert delivery["problems"] == [] and delivery["trials"][0]["engine"] == "ONNX Runtime"


@pytest.mark.slow
def test_what_quantize_has_verified_is_not_verified_again(
    quantized: Path, residual: tuple[Path, Path], tmp_path: Path
) -> None:
    artifact = shutil.copytree(quantized, tmp_path / "artifact")
    assert call("quantize", residual[0], "-r", "int8", "-c", residual[1], "-o", artifact).exit_code == 0
    found = call("export", artifact, "--to", "onnx", "-o", tmp_path / "out")
    assert found.exit_code == 0 and "the same file as quantize has verified" in found.stderr
    assert "dB against the simulation" in found.stdout


def test_a_file_that_is_missing_from_the_artifact_is_made_again(quantized: Path, tmp_path: Path) -> None:
    artifact = shutil.copytree(quantized, tmp_path / "artifact")
    shutil.rmtree(artifact / "export")
    assert call("export", artifact, "--to", "onnx", "-o", tmp_path / "out", "--no-verify").exit_code == 0
    onnx.checker.check_model(str(tmp_path / "out" / "model.onnx"))


def test_other_forms_and_half_of_what_verifying_needs_are_refused(
    quantized: Path, residual: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert "one of onnx, onnx-nbits" in refused("export", quantized, "--to", "dense", "-o", out)
    assert "give both" in refused("export", quantized, "--to", "onnx", "-o", out, "--data", residual[1])
    assert "artifact itself" in refused("export", quantized, "--to", "onnx", "-o", quantized)
    assert not out.exists()
    assert "whose weights alone" in refused("export", quantized, "--to", "onnx-nbits", "-o", out)


def test_an_artifact_of_a_language_model_takes_no_options_of_networks(finished: Path, tmp_path: Path) -> None:
    words = refused("export", finished, "--to", "dense", "-o", tmp_path / "out", "--no-verify")
    assert "--no-verify: for whole networks" in words
