"""The page of a whole network: it carries what the files say, draws without a word on the console, and stays inert."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.report import write_report
from bitwright.report.network import compose_network, rule_of, spec_of
from report.networks import manifest, write
from report.synthetic import HOSTILE
from report.test_browser import CHROMIUM, act, browse, section

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the PATH")


def paged(folder: Path) -> Path:
    write_report(folder, folder / "report.html")
    return folder / "report.html"


def test_the_page_carries_what_the_files_say(tmp_path: Path) -> None:
    page = compose_network(write(tmp_path, manifest()))
    assert page.source.name == "net.onnx" and page.target == "x86-vnni" and page.integer == 3
    assert [(group.reason, len(group.members)) for group in page.kept] == [
        ("no integer Softmax", 2),
        ("asked to stay float", 1),
    ]
    assert page.rows[0].gain == pytest.approx(1 - 10**-0.3) and page.rows[0].chosen == "bias corrected"
    assert page.points[0].rule == "Percentile (percent 99.99)" and page.points[0].clipped == 0.0001
    assert [part.bytes for part in page.parts] == [3 * 288, 3 * 32, 5000]
    assert page.delivery is not None and page.delivery.engines[0].floats == (("Softmax", 2),)
    assert page.scores is not None and page.scores.metric is not None and page.scores.metric.samples == 256
    assert page.goal is not None and page.goal.asked == ("at least 30 dB", "mine:top1, at most 0.01 worse")
    assert page.goal.is_met and page.goal.rounds[-1].found == (31.4, 0.004)


def test_specs_and_rules_are_said_in_a_few_words() -> None:
    form = {"type": "Int", "width": 4, "signed": False}
    assert spec_of({"format": form, "tile": {"rows": 1, "cols": 32}, "zero": {"format": form}}) == (
        "uint4 per group of 32 with zero"
    )
    assert rule_of({"type": "MinMaxRange"}) == "MinMaxRange" and rule_of({}) == ""


@needs_browser
def test_every_section_is_drawn_and_the_console_is_silent(tmp_path: Path) -> None:
    dom, console = browse(paged(write(tmp_path, manifest())), "--dump-dom")
    assert console == []
    assert "2.31×" in section(dom, "headline") and "31.4" in section(dom, "headline")
    assert "mine:top1" in section(dom, "headline") and "in float Softmax 2" in section(dom, "delivery")
    search = section(dom, "search")
    assert "Goal: met" in search and "at least 30 dB" in search and "31.4" in search
    assert "equalize: kept" in search and "absorb: not kept" in search
    assert "2 places, 7 channels" in search and "Left as it is: conv7: Conv (y7) pads it with zeros" in search
    assert "repeat an earlier" in section(dom, "findings")
    assert "Percentile (percent 99.99)" in section(dom, "ranges") and "0.010%" in section(dom, "ranges")
    assert "no integer Softmax" in section(dom, "kept") and 'class="plot"' in section(dom, "layers")
    assert 'id="blocks"' not in dom and "NaN" not in dom.split("<script")[0]
    assert "undefined" not in dom.split("<script")[0]


@needs_browser
@pytest.mark.parametrize("content", [{"kind": "network"}, {"kind": "network", "weights": [{}], "points": [{}]}])
def test_a_network_without_figures_still_draws(tmp_path: Path, content: dict[str, object]) -> None:
    dom, console = browse(paged(write(tmp_path, content, None, None)), "--dump-dom")
    assert console == [] and "Not verified" in dom and "--metric pkg.mod:function" in dom


@needs_browser
def test_hostile_names_are_drawn_as_text(tmp_path: Path) -> None:
    content = manifest()
    for entry in content["weights"]:
        entry["name"] += HOSTILE
    for entry in content["points"]:
        entry["value"] += HOSTILE
    content |= {"float": {HOSTILE: HOSTILE}, "findings": [HOSTILE]}
    dom, console = browse(paged(write(tmp_path, content)), "--dump-dom")
    assert console == [] and "<img" not in dom


@needs_browser
def test_pointing_at_a_layer_names_it(tmp_path: Path) -> None:
    script = """
      const plot = document.querySelector("#layers svg"), box = plot.getBoundingClientRect();
      const seen = [];
      for (let x = 0; x < box.width; x += 20)
        for (let y = 0; y < box.height; y += 20) {
          const at = { clientX: box.left + x, clientY: box.top + y };
          plot.dispatchEvent(new PointerEvent("pointermove", at));
          const tip = document.getElementById("tip");
          if (!tip.hidden) seen.push(tip.textContent);
        }
      document.body.append(`${new Set(seen).size} names seen, such as ${seen[0]}`);"""
    dom, console = act(paged(write(tmp_path, manifest(12))), script)
    assert console == [] and "12 names seen, such as layer0.weight" in dom
