"""The page itself: template, style, script and figures in one file.

The page may be mailed, archived and opened years later, so it fetches nothing. Names in it come from checkpoints that
strangers wrote, so they are defended twice: the figures are JSON in a data block with every `<`, `>` and `&` escaped,
and drawn as text nodes only; and the page's own security policy allows exactly the one script and the one style sheet
below, by their digests, and no request at all.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import asdict, dataclass
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from bitwright.report.changes import Change, best_changes
from bitwright.report.network import compose_network, is_network
from bitwright.report.network_records import NetworkPage
from bitwright.report.read import read_manifest, read_run, read_scores
from bitwright.report.records import Block, Calibration, Manifest, Run, Scores, Source, Tuned
from bitwright.report.summary import (
    KeptGroup,
    Note,
    Part,
    Row,
    Worst,
    kept_groups,
    notes,
    parts,
    quantized_bits,
    rows,
    worst,
)

# In the order in which they are joined into one script: each may use the ones before it.
SCRIPTS = (
    "dom.js",
    "format.js",
    "plot.js",
    "figures.js",
    "curves.js",
    "histograms.js",
    "lists.js",
    "table.js",
    "network.js",
    "main.js",
)
# What could end the data block or start a tag; the result is the same JSON.
ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


@dataclass(frozen=True, slots=True)
class Page:
    """All that the page draws."""

    kind: str
    version: str
    source: Source
    calibration: Calibration | None
    tuned: Tuned | None
    recipe: tuple[tuple[str, str], ...]
    scores: Scores | None
    run: Run | None
    quantized_bits: float | None
    parts: tuple[Part, ...]
    rows: tuple[Row, ...]
    blocks: tuple[Block, ...]
    worst: tuple[Worst, ...]
    changes: tuple[Change, ...]
    notes: tuple[Note, ...]
    kept: tuple[KeptGroup, ...]


def write_report(folder: Path, page: Path) -> None:
    """Writes one self-contained HTML page about the artifact in `folder`.

    Reads manifest.json, and scores.json, run.json and delivery.json where they exist. Raises ValueError where the
    manifest is missing or one of the files is not readable.
    """
    content = (
        compose_network(folder)
        if is_network(folder)
        else compose(read_manifest(folder), read_scores(folder), read_run(folder))
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_bytes(render(content).encode("utf-8"))


def compose(manifest: Manifest, scores: Scores | None, run: Run | None) -> Page:
    """The figures of the page."""
    return Page(
        kind="language",
        version=manifest.version,
        source=manifest.source,
        calibration=manifest.calibration,
        tuned=manifest.tuned,
        recipe=manifest.recipe,
        scores=scores,
        run=run,
        quantized_bits=quantized_bits(manifest.weights),
        parts=parts(manifest),
        rows=rows(manifest.weights),
        blocks=manifest.blocks,
        worst=worst(manifest.weights),
        changes=best_changes(manifest.weights),
        notes=notes(manifest),
        kept=kept_groups(manifest.kept),
    )


def render(page: Page | NetworkPage) -> str:
    """The page as HTML."""
    style = read_template("style.css")
    script = '"use strict";\n{\n' + "\n".join(map(read_template, SCRIPTS)) + "}\n"
    return Template(read_template("page.html")).substitute(
        title=escape(page.source.name or "Quantized model"),
        policy=f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{digest(style)}'; script-src '{digest(script)}'",
        style=style,
        script=script,
        data=json.dumps(asdict(page), allow_nan=False, separators=(",", ":")).translate(ESCAPES),
    )


def read_template(name: str) -> str:
    """The text of a file of the template."""
    return files("bitwright.report").joinpath("template", name).read_text("utf-8")


def digest(text: str) -> str:
    """The digest by which a security policy names an inline script or style sheet."""
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()
