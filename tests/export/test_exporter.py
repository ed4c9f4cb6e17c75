"""Where an export may be written, and what is left when it fails."""

import errno
from pathlib import Path

import pytest

from bitwright.export import CompressedTensors, Dense, ExportError, export
from bitwright.export.exporter import DRAFT
from bitwright.numerics import NF4, Spec, per_group
from bitwright.store.artifact import Artifact, ArtifactError, open_artifact
from bitwright.store.source_error import SourceError
from export.artifacts import make


def copied(artifact: Artifact, to: Path) -> Path:
    for file in (file for file in artifact.path.rglob("*") if file.is_file()):
        target = to / file.relative_to(artifact.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    return to


def test_the_report_lists_exactly_what_lies_in_the_folder(small: Artifact, tmp_path: Path) -> None:
    report = export(small, CompressedTensors(), tmp_path / "deep" / "out")
    files = [file for file in (tmp_path / "deep" / "out").rglob("*") if file.is_file()]
    assert report.files == tuple(sorted(file.name for file in files))
    assert report.bytes == sum(file.stat().st_size for file in files)
    assert {"config.json", "generation_config.json", "model.safetensors"} <= set(report.files)


def test_an_empty_folder_may_be_given(small: Artifact, tmp_path: Path) -> None:
    assert "config.json" in export(small, Dense(), tmp_path).files


def test_a_second_export_of_the_same_artifact_is_the_same_to_the_byte(small: Artifact, tmp_path: Path) -> None:
    for name in "ab":
        export(small, CompressedTensors(), tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_folder_with_other_files_is_refused_and_left_alone(small: Artifact, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"is not empty \(it holds notes.txt\)"):
        export(small, Dense(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_an_earlier_export_is_not_overwritten(small: Artifact, tmp_path: Path) -> None:
    export(small, Dense(), tmp_path)
    with pytest.raises(ExportError, match="is not empty"):
        export(small, CompressedTensors(), tmp_path)


def test_the_artifact_itself_is_not_written_into(small: Artifact) -> None:
    with pytest.raises(ExportError, match="is not empty"):
        export(small, Dense(), small.path)


def test_a_file_or_a_dangling_link_is_refused(small: Artifact, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, message in (("file", "is a file"), ("link", "is a link to nothing")):
        with pytest.raises(ExportError, match=message):
            export(small, Dense(), tmp_path / name)


def test_what_a_killed_export_left_is_replaced(small: Artifact, tmp_path: Path) -> None:
    (tmp_path / DRAFT).mkdir()
    (tmp_path / DRAFT / "shard-0.draft").write_text("half")
    export(small, Dense(), tmp_path)
    assert not (tmp_path / DRAFT).exists()
    assert not list(tmp_path.glob("*.draft"))


def test_the_configuration_comes_last(small: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []

    def settle(draft: Path, path: Path) -> None:
        moved.append(path.name)
        draft.replace(path)

    monkeypatch.setattr("bitwright.export.exporter.settle", settle)
    export(small, Dense(), tmp_path)
    assert len(moved) > 2
    assert moved[-1] == "config.json"


def test_a_full_disk_is_explained_and_leaves_no_checkpoint(
    small: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bitwright.export.dense.write_weights", full)
    with pytest.raises(ExportError, match=r"No space left on device\. Nothing usable was written"):
        export(small, Dense(), tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "config.json").exists()
    assert "config.json" in export(small, Dense(), tmp_path).files


def test_a_refused_artifact_leaves_no_folder(sources: dict[str, Path], tmp_path: Path) -> None:
    artifact = make(sources["llama"], tmp_path / "artifact", Spec(NF4, per_group(16)))
    with pytest.raises(ExportError, match=r"q_proj: its codes are NF4.*--to dense"):
        export(artifact, CompressedTensors(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unfinished_artifact_cannot_be_opened(small: Artifact, tmp_path: Path) -> None:
    folder = copied(small, tmp_path / "copy")
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="is not a finished artifact"):
        open_artifact(folder)


def test_a_truncated_block_cannot_be_opened(small: Artifact, tmp_path: Path) -> None:
    file = copied(small, tmp_path / "copy") / "blocks" / "00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="is damaged"):
        open_artifact(tmp_path / "copy")


@pytest.mark.parametrize("to", [Dense(), CompressedTensors()])
def test_an_artifact_without_a_layout_is_refused_before_any_work(small: Artifact, tmp_path: Path, to) -> None:
    folder = copied(small, tmp_path / "copy")
    (folder / "source" / "layout.json").unlink()
    with pytest.raises(SourceError, match=r"layout\.json is missing.*Quantize again"):
        export(open_artifact(folder), to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_source_folder_is_not_needed(sources: dict[str, Path], tmp_path: Path) -> None:
    source = copied(Artifact(sources["llama"], {}), tmp_path / "source")
    artifact = make(source, tmp_path / "artifact", Spec(NF4, per_group(16)))
    source.rename(tmp_path / "gone")
    assert "model.safetensors" in export(artifact, Dense(), tmp_path / "out").files
