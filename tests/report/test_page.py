"""The file that is written: self-contained, inert where names are hostile, and the same for the same inputs."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

from bitwright.report import write_report
from bitwright.report.page import SCRIPTS, digest
from report.synthetic import HOSTILE, RUN, Json, manifest, scores, write_artifact


class Elements(HTMLParser):
    """Tags with their attributes, and the text of scripts and styles, as a browser would split them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1][0] if self.tags else "", data))


def written(folder: Path, content: Json, with_scores: bool = True) -> str:
    page = folder / "out" / "report.html"
    write_report(write_artifact(folder, content, scores(content) if with_scores else None, RUN), page)
    return page.read_text("utf-8")


def data_of(page: str) -> Json:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def hostile(content: Json) -> Json:
    """The manifest with every text in it replaced, keys of the recipe included."""

    def replace(value: object) -> object:
        match value:
            case str():
                return HOSTILE
            case list():
                return [replace(item) for item in value]
            case dict():
                return {key: replace(item) for key, item in value.items()}
        return value

    return replace(content) | {"recipe": {HOSTILE: HOSTILE}}  # type: ignore[operator]


def test_the_page_carries_what_the_files_say(tmp_path: Path) -> None:
    content = manifest(4)
    data = data_of(written(tmp_path, content))
    assert [row["name"] for row in data["rows"]] == [entry["name"] for entry in content["weights"]]
    assert data["scores"]["kl_p999"] == {"value": 0.6121, "interval": [0.5512, 0.6804]}
    assert len(data["worst"]) == 6 and len(data["changes"]) == 3
    assert data["run"]["seconds"] == RUN["seconds"] and data["run"]["host"] == [
        ["host.cpu", "8 cores"],
        ["host.torch", "2.13.0"],
    ]


def test_histograms_are_carried_for_the_worst_layers_only(tmp_path: Path) -> None:
    assert written(tmp_path, manifest(8)).count('"counts"') == 12


def test_the_same_files_give_the_same_page(tmp_path: Path) -> None:
    assert written(tmp_path / "a", manifest(2)) == written(tmp_path / "b", manifest(2))


def test_nothing_on_the_page_refers_to_the_network(tmp_path: Path) -> None:
    page = written(tmp_path, manifest(4))
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", page)
    for tag, attributes in Elements(page).tags:
        assert tag not in {"img", "iframe", "object", "embed"}
        assert "src" not in attributes and attributes.get("href", "data:,") == "data:,"


def test_the_policy_allows_exactly_the_inline_script_and_style(tmp_path: Path) -> None:
    page = written(tmp_path, manifest(1))
    policy = next(a["content"] for tag, a in Elements(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", page, re.S)
    script = re.search(r"<script>(.*?)</script>", page, re.S)
    assert policy is not None and style is not None and script is not None
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert digest(style[1]) in policy and digest(script[1]) in policy


def test_hostile_texts_add_no_element_and_no_attribute(tmp_path: Path) -> None:
    content = manifest(2)
    tame, wild = Elements(written(tmp_path / "a", content)), Elements(written(tmp_path / "b", hostile(content)))
    policy_free = [[tag for tag, _ in page.tags] for page in (tame, wild)]
    assert policy_free[0] == policy_free[1]
    assert not any(name.startswith("on") for _, attributes in wild.tags for name in attributes)


def test_hostile_texts_arrive_unchanged_but_for_halves_of_characters(tmp_path: Path) -> None:
    data = data_of(written(tmp_path, hostile(manifest(1))))
    whole = HOSTILE.replace("\ud800", "\ufffd")
    assert data["rows"][0]["name"] == whole and data["source"]["name"] == whole
    assert data["recipe"] == [[whole, whole]]


def test_the_data_block_has_no_character_that_markup_needs(tmp_path: Path) -> None:
    page = written(tmp_path, hostile(manifest(1)))
    block = page.split('id="data">')[1].split("</script>")[0]
    assert not re.search(r"[<>&]|[^\x20-\x7e]", block)


def test_the_script_never_parses_markup() -> None:
    for name in SCRIPTS:
        source = files("bitwright.report").joinpath("template", name).read_text("utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|DOMParser", source
        ), name
        assert len(source.splitlines()) <= 300, name


def test_a_page_without_scores_says_how_to_get_them(tmp_path: Path) -> None:
    page = written(tmp_path, manifest(1), with_scores=False)
    assert data_of(page)["scores"] is None
    assert "bitwright evaluate OUT --against MODEL --text FILE" in page


def test_a_missing_manifest_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json: not found"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_figures_that_are_not_finite_are_written_as_missing(tmp_path: Path) -> None:
    content = manifest(1)
    content["weights"][0] |= {"sqnr_db": float("nan"), "loss": float("inf")}
    row = data_of(written(tmp_path, content))["rows"][0]
    assert row["sqnr_db"] is None and row["share"] is None


def test_the_page_of_a_large_model_stays_small(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path, manifest(160))
    write_report(folder, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 1_000_000
