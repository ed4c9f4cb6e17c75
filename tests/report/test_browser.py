"""The page in a real browser: it draws, its console is silent, and hostile names do nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bitwright.report import write_report
from report.synthetic import HOSTILE, RUN, Json, manifest, scores, write_artifact

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no `chromium` on the PATH: the page is not tried in a browser"
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--window-size=1280,1200",
    "--virtual-time-budget=2000",
]


def report(folder: Path, content: Json, with_scores: bool = True) -> Path:
    page = folder / "report.html"
    write_report(write_artifact(folder, content, scores(content) if with_scores else None, RUN), page)
    return page


def browse(page: Path, *flags: str) -> tuple[str, list[str]]:
    """The document as the browser has it after its scripts ran, and the lines of its console."""
    command = [CHROMIUM or "", *FLAGS, f"--user-data-dir={page.parent / 'profile'}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def act(page: Path, script: str) -> tuple[str, list[str]]:
    """The document after a script of the test ran on it, which the page's own policy would not allow."""
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text("utf-8"))
    acted = page.with_name("acted.html")
    acted.write_text(free.replace("</body>", f"<script>{script}</script></body>"))
    return browse(acted, "--dump-dom")


def section(dom: str, name: str) -> str:
    found = re.search(rf'<section [^>]*id="{name}".*?</section>', dom, re.S)
    assert found is not None, name
    return found[0]


def test_every_plot_is_drawn_and_the_console_is_silent(tmp_path: Path) -> None:
    dom, console = browse(report(tmp_path, manifest(4)), "--dump-dom")
    assert console == []
    plots = {name: section(dom, name).count('class="plot"') for name in ("size", "blocks", "layers", "worst")}
    assert plots == {"size": 1, "blocks": 1, "layers": 1, "worst": 12}
    assert len(re.findall(r'class="line (?:this|nearest)"', section(dom, "blocks"))) == 2
    assert section(dom, "worst").count('class="tick"') == 6 * 16
    assert section(dom, "table").count("<tr>") == 1 + 28
    assert "NaN" not in dom.split("<script")[0] and "undefined" not in dom.split("<script")[0]


def test_headline_figures_carry_their_intervals(tmp_path: Path) -> None:
    head = section(browse(report(tmp_path, manifest(2)), "--dump-dom")[0], "headline")
    for expected in (
        "11.873",
        "11.701 – 12.046",
        "original 11.652, +1.90%",
        "0.0193",
        "0.551 – 0.680",
        "92.99% – 93.26%",
    ):
        assert expected in head


def test_without_scores_the_page_says_how_to_get_them(tmp_path: Path) -> None:
    dom, console = browse(report(tmp_path, manifest(2), with_scores=False), "--dump-dom")
    assert console == []
    assert "bitwright evaluate OUT --against MODEL --text FILE" in section(dom, "headline")


def test_hostile_names_are_drawn_as_text(tmp_path: Path) -> None:
    content = manifest(2)
    for entry in [content["source"], *content["weights"], *content["kept"], *content["blocks"]]:
        entry["name"] += HOSTILE
    for entry in content["weights"]:
        entry |= {"spec": HOSTILE, "chosen": HOSTILE, "notes": [HOSTILE]}
    dom, console = browse(report(tmp_path, content), "--dump-dom")
    assert console == [] and "<img" not in dom
    assert "&lt;img src=x onerror=alert(1)&gt;" in section(dom, "table")


@pytest.mark.parametrize("content", [{}, {"weights": [{}], "kept": [{}], "blocks": [{}]}], ids=["empty", "hollow"])
def test_a_manifest_without_figures_still_draws(tmp_path: Path, content: Json) -> None:
    page = tmp_path / "report.html"
    write_report(write_artifact(tmp_path, content, {}, {}), page)
    dom, console = browse(page, "--dump-dom")
    assert console == [] and "No block errors recorded" in dom


def test_a_click_on_a_heading_sorts_and_a_filter_selects(tmp_path: Path) -> None:
    script = """
      const heads = [...document.querySelectorAll("#table th button")];
      heads.find(head => head.textContent === "SQNR, dB").click();
      heads.find(head => head.textContent === "SQNR, dB").click();
      const filter = document.querySelector("#table input");
      filter.value = "down_proj";
      filter.dispatchEvent(new Event("input"));"""
    dom, console = act(report(tmp_path, manifest(4)), script)
    table = section(dom, "table").replace("<wbr>", "")
    names = re.findall(r'<td class="name">([^<]*)', table)
    figures = [float(row) for row in re.findall(r'<td class="num">([\d.]+)</td><td class="num">[\d.]+%', table)]
    assert console == [] and 'aria-sort="ascending"' in table
    assert len(names) == 4 and names[0] == "model.layers.1.mlp.down_proj"
    assert figures == sorted(figures)


def test_pointing_at_a_plot_names_what_is_there(tmp_path: Path) -> None:
    script = """
      const plot = document.querySelector("#blocks svg"), box = plot.getBoundingClientRect();
      plot.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + 52, clientY: box.top + 100 }));"""
    dom, console = act(report(tmp_path, manifest(4)), script)
    tip = dom.split('id="tip"')[1].split("<svg")[0]
    assert console == [] and "model.layers.0" in tip and "rounding to nearest" in tip


def test_a_model_of_a_thousand_weights_draws(tmp_path: Path) -> None:
    dom, console = browse(report(tmp_path, manifest(160)), "--dump-dom")
    assert console == []
    assert "50 of 1,120 weights" in section(dom, "table")
    assert len(re.findall("<(?:path|line|text|rect|circle)", dom)) < 2000


def test_the_page_paints(tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    _, console = browse(report(tmp_path, manifest(2)), f"--screenshot={picture}")
    assert console == [] and picture.stat().st_size > 20_000
