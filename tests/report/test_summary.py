"""The figures of the page, against sums made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.report.read import read_manifest
from bitwright.report.records import Manifest
from bitwright.report.summary import Tone, kept_groups, notes, parts, quantized_bits, rows, worst
from report.synthetic import manifest, write_artifact


@pytest.fixture
def read(tmp_path: Path) -> Manifest:
    return read_manifest(write_artifact(tmp_path, manifest(4)))


def test_the_parts_add_up_to_all_stored_bytes(read: Manifest) -> None:
    content = manifest(4)
    stored = sum(entry["bits"] for entry in content["weights"]) / 8 + sum(entry["bytes"] for entry in content["kept"])
    found = parts(read)
    assert sum(part.bytes for part in found) == pytest.approx(stored)
    assert [part.label for part in found] == [
        "Quantized codes",
        "Scales and zeros",
        "Embeddings",
        "Output head",
        "Norms",
    ]
    assert [part.tone for part in found[:2]] == [Tone.CODES, Tone.PARAMS]


def test_bits_beyond_codes_scales_and_zeros_are_residual_terms(tmp_path: Path) -> None:
    entry = {"name": "w", "bits": 180, "code_bits": 80, "scale_bits": 16, "zero_bits": 4}
    found = parts(read_manifest(write_artifact(tmp_path, {"weights": [entry]})))
    assert {part.label: part.bytes for part in found} == {
        "Quantized codes": 10,
        "Scales and zeros": 2.5,
        "Residual terms": 10,
    }


def test_an_unknown_kind_of_kept_tensor_has_its_own_part(tmp_path: Path) -> None:
    kept = [{"name": "a", "bytes": 5, "kind": "table"}, {"name": "b", "bytes": 6, "kind": "table"}]
    (part,) = parts(read_manifest(write_artifact(tmp_path, {"kept": kept})))
    assert (part.label, part.bytes) == ("table", 11)


def test_bits_per_weight_count_what_is_stored(read: Manifest) -> None:
    assert quantized_bits(read.weights) == pytest.approx(4 + 20 / 128)
    assert rows(read.weights)[0].bits == pytest.approx(4 + 20 / 128)
    assert quantized_bits(()) is None


def test_shares_of_the_loss_add_up_to_one(read: Manifest) -> None:
    assert sum(row.share or 0.0 for row in rows(read.weights)) == pytest.approx(1.0)


def test_gain_is_measured_against_rounding_to_nearest(read: Manifest) -> None:
    for row, weight in zip(rows(read.weights), read.weights, strict=True):
        assert weight.loss is not None and weight.loss_nearest is not None and row.gain is not None
        assert weight.loss == pytest.approx((1 - row.gain) * weight.loss_nearest)


def test_the_worst_layers_are_those_with_most_loss(read: Manifest) -> None:
    found = [read.weights[layer.row] for layer in worst(read.weights)]
    assert found[0].name == "model.layers.1.mlp.down_proj" and len(found) == 6
    rest = [weight.loss or 0.0 for weight in read.weights if weight not in found]
    assert min(weight.loss or 0.0 for weight in found) >= max(rest)


def test_every_note_is_shown_and_equal_notes_are_one(tmp_path: Path) -> None:
    content = {
        "weights": [{"name": "a", "notes": ["rare", "often"]}, {"name": "b", "notes": ["often"]}],
        "blocks": [{"name": "block", "notes": ["often"]}],
    }
    found = notes(read_manifest(write_artifact(tmp_path, content)))
    assert [(note.text, note.names) for note in found] == [("often", ("a", "b", "block")), ("rare", ("a",))]


def test_every_kept_tensor_is_in_one_group(read: Manifest) -> None:
    groups = kept_groups(read.kept)
    assert sorted(tensor.name for group in groups for tensor in group.members) == sorted(t.name for t in read.kept)
    assert [group.label for group in groups] == ["Embeddings", "Output head", "Norms"]
