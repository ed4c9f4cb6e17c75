"""Reading the JSON files of an artifact, whole or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.report.read import finite, flat, read_manifest, read_run, read_scores
from report.synthetic import MEASURED, RUN, manifest, write_artifact


def test_a_manifest_is_read_whole(tmp_path: Path) -> None:
    content = manifest(3)
    found = read_manifest(write_artifact(tmp_path, content))
    assert [weight.name for weight in found.weights] == [entry["name"] for entry in content["weights"]]
    first, entry = found.weights[0], content["weights"][0]
    assert first.storage.total == entry["bits"] and first.storage.zeros == entry["zero_bits"]
    assert first.one_bit_more is not None and first.one_bit_more.loss == entry["loss_one_bit_more"]
    assert first.histogram is not None and len(first.histogram.grid) == 16
    assert found.source.parameters == content["source"]["parameters"]
    assert len(found.kept) == len(content["kept"]) and len(found.blocks) == 3


@pytest.mark.parametrize(("entry", "kept"), [({"kept": True, "kl_before": 0.2, "kl_after": 0.1}, True), ({}, False)])
def test_what_tuning_did_is_read(tmp_path: Path, entry: dict[str, object], kept: bool) -> None:
    found = read_manifest(write_artifact(tmp_path, manifest(1) | {"tuned": entry})).tuned
    assert found is not None and found.kept is kept
    assert (found.before, found.after) == (entry.get("kl_before"), entry.get("kl_after"))
    assert read_manifest(write_artifact(tmp_path, manifest(1))).tuned is None


def test_a_missing_manifest_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json: not found.*bitwright quantize"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b"[" * 200_000, b"9" * 10_000], ids=["cut", "bytes", "deep", "long"]
)
def test_broken_json_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json: not readable as JSON"):
        read_manifest(tmp_path)


def test_another_kind_of_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="holds a list, not an object"):
        read_manifest(tmp_path)


def test_a_manifest_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format 2.*reads format 1.*9.9"):
        read_manifest(write_artifact(tmp_path, {"format": 2, "version": "9.9"}))


def test_an_empty_manifest_reads_as_nothing_known(tmp_path: Path) -> None:
    found = read_manifest(write_artifact(tmp_path, {}))
    assert found.weights == found.kept == found.blocks == ()
    assert found.calibration is None and found.source.parameters is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, True, "4", None, [1]])
def test_what_is_not_a_finite_number_is_missing(value: object) -> None:
    assert finite(value) is None


@pytest.mark.parametrize("damage", [None, "text", float("nan"), [], {}, -1])
def test_every_damaged_field_of_a_weight_leaves_it_readable(tmp_path: Path, damage: object) -> None:
    content = manifest(1)
    entry = content["weights"][0]
    content["weights"] = [entry | {key: damage} for key in entry] + [damage]
    found = read_manifest(write_artifact(tmp_path, content)).weights
    assert len(found) == len(entry) + (damage == {})


def test_codes_are_what_scales_and_zeros_leave_where_they_are_not_given(tmp_path: Path) -> None:
    entry = {"name": "w", "bits": 100, "scale_bits": 16, "zero_bits": 4}
    found = read_manifest(write_artifact(tmp_path, {"weights": [entry]}))
    assert found.weights[0].storage.codes == 80


def test_scores_and_run_may_be_absent(tmp_path: Path) -> None:
    assert read_scores(tmp_path) is None and read_run(tmp_path) is None


def test_a_score_carries_its_interval(tmp_path: Path) -> None:
    found = read_scores(write_artifact(tmp_path, {}, MEASURED))
    assert found is not None and found.kl_mean is not None and found.perplexity is not None
    assert found.kl_mean.interval == (0.0187, 0.01999)
    assert found.perplexity.value == 11.873


@pytest.mark.parametrize("ends", [None, [1.0], [2.0, 1.0], [float("nan"), 1.0], "1, 2"])
def test_an_impossible_interval_is_missing_but_the_score_stays(tmp_path: Path, ends: object) -> None:
    found = read_scores(write_artifact(tmp_path, {}, {"kl_mean": 0.1, "intervals": {"kl_mean": ends}}))
    assert found is not None and found.kl_mean is not None
    assert found.kl_mean.value == 0.1 and found.kl_mean.interval is None


def test_the_host_of_a_run_may_be_a_text_or_an_object(tmp_path: Path) -> None:
    for host, lines in (("a laptop", (("host", "a laptop"),)), ({"cpu": 8}, (("host.cpu", "8"),)), (None, ())):
        found = read_run(write_artifact(tmp_path, {}, run=RUN | {"host": host}))
        assert found is not None and found.host == lines


def test_a_recipe_becomes_lines() -> None:
    recipe = {"weights": "Int(4)", "solver": {"damp": 0.01}, "rules": [{"match": "a", "bits": [4, 8], "kept": None}]}
    assert flat(recipe) == (
        ("weights", "Int(4)"),
        ("solver.damp", "0.01"),
        ("rules[0].match", "a"),
        ("rules[0].bits", "[4, 8]"),
    )
