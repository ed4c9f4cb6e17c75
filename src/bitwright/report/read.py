"""Untrusted JSON into records.

A report must open even where a file is from another version, so a missing or impossible field becomes `None`, an empty
text or an empty tuple, here and nowhere else. What cannot be a report at all (no manifest, broken JSON, an unknown
format number) is an error that says which file and what to do. Nothing is trusted to be short, ASCII or polite: the
page draws all texts as text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from bitwright.report.records import (
    Alternative,
    Block,
    Calibration,
    Histogram,
    Kept,
    Manifest,
    Measured,
    Run,
    Scores,
    Source,
    Storage,
    Tuned,
    Weight,
)

FORMAT = 1
Entry = dict[str, object]
HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact folder; raises ValueError where there is none that can be read."""
    path = folder / "manifest.json"
    entry = read_json(path)
    if entry is None:
        raise ValueError(
            f"{path}: not found, and a report needs it; give the folder that `bitwright quantize` wrote "
            f"(it holds manifest.json beside the safetensors files)"
        )
    if (found := entry.get("format", FORMAT)) != FORMAT:
        raise ValueError(
            f"{path}: manifest format {found!r}, and this version of Bitwright reads format {FORMAT}; "
            f"write the report with the version that wrote the artifact ({text(entry, 'version') or 'not named'})"
        )
    calibration = entry.get("calibration")
    return Manifest(
        version=text(entry, "version"),
        source=source(child(entry, "source")),
        recipe=flat(entry.get("recipe")),
        calibration=batches(child(entry, "calibration")) if isinstance(calibration, dict) else None,
        tuned=tuned(child(entry, "tuned")) if isinstance(entry.get("tuned"), dict) else None,
        weights=tuple(weight(item) for item in entries(entry, "weights")),
        kept=tuple(kept(item) for item in entries(entry, "kept")),
        blocks=tuple(block(item) for item in entries(entry, "blocks")),
    )


def read_scores(folder: Path) -> Scores | None:
    """What `bitwright evaluate` measured; `None` where it has not run."""
    entry = read_json(folder / "scores.json")
    if entry is None:
        return None
    return Scores(
        perplexity=measured(entry, "perplexity"),
        perplexity_original=measured(entry, "perplexity_original"),
        kl_mean=measured(entry, "kl_mean"),
        kl_p999=measured(entry, "kl_p999"),
        top1_agreement=measured(entry, "top1_agreement"),
        bits_per_weight=number(entry, "bits_per_weight"),
        bytes=number(entry, "bytes"),
        bytes_original=number(entry, "bytes_original"),
        tokens=number(entry, "tokens"),
        text=text(entry, "text"),
    )


def read_run(folder: Path) -> Run | None:
    """Times and host of the run; `None` where they were not kept."""
    entry = read_json(folder / "run.json")
    if entry is None:
        return None
    return Run(
        seconds=number(entry, "seconds"),
        block_seconds=tuple(number(item, "seconds") for item in entries(entry, "blocks")),
        peak_bytes=number(entry, "peak_bytes"),
        host=flat(entry.get("host"), "host"),
    )


def read_json(path: Path) -> Entry | None:
    """The object in a JSON file; `None` where there is no file."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested beyond reason
        raise ValueError(
            f"{path}: not readable as JSON ({error}); it may be half written: run the command that writes it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: holds a {type(content).__name__}, not an object; run the command that writes it again"
        )
    return content


def source(entry: Entry) -> Source:
    """The `source` object of a manifest."""
    return Source(
        name=text(entry, "name"),
        digest=text(entry, "digest"),
        bytes=number(entry, "bytes"),
        dtype=text(entry, "dtype"),
        parameters=number(entry, "parameters"),
    )


def batches(entry: Entry) -> Calibration:
    """The `calibration` object of a manifest."""
    rows, length, held_out = (number(entry, key) for key in ("rows", "length", "held_out"))
    return Calibration(rows, length, held_out, text(entry, "digest"))


def tuned(entry: Entry) -> Tuned:
    """The `tuned` object of a manifest."""
    return Tuned(number(entry, "kl_before"), number(entry, "kl_after"), entry.get("kept") is True)


def weight(entry: Entry) -> Weight:
    """One entry of a manifest's `weights`."""
    index = number(entry, "block")
    return Weight(
        name=text(entry, "name") or "(no name)",
        block=None if index is None else int(index),
        shape=shape(entry),
        spec=text(entry, "spec"),
        storage=storage(entry),
        solver=text(entry, "solver"),
        chosen=text(entry, "chosen"),
        sqnr_db=number(entry, "sqnr_db"),
        loss=number(entry, "loss"),
        loss_nearest=number(entry, "loss_nearest"),
        one_bit_more=alternative(entry, "one_bit_more"),
        half_group=alternative(entry, "half_group"),
        notes=texts(entry, "notes"),
        histogram=histogram(child(entry, "histogram")),
        inputs=histogram(child(entry, "input_histogram")),
    )


def storage(entry: Entry) -> Storage:
    """Stored bits of a weight; codes that are not given are what scales and zeros leave."""
    scales, zeros = size(entry, "scale_bits"), size(entry, "zero_bits")
    codes = size(entry, "code_bits") or max(0.0, size(entry, "bits") - scales - zeros)
    return Storage(max(size(entry, "bits"), codes + scales + zeros), codes, scales, zeros)


def kept(entry: Entry) -> Kept:
    """One entry of a manifest's `kept`."""
    return Kept(
        name=text(entry, "name") or "(no name)",
        shape=shape(entry),
        bytes=size(entry, "bytes"),
        kind=text(entry, "kind") or "other",
        reason=text(entry, "reason") or "no reason recorded",
    )


def block(entry: Entry) -> Block:
    """One entry of a manifest's `blocks`."""
    error, nearest = number(entry, "error"), number(entry, "error_nearest")
    return Block(text(entry, "name") or "(no name)", error, nearest, texts(entry, "notes"))


def alternative(entry: Entry, name: str) -> Alternative | None:
    """Loss and bits under another spec; `None` unless both were recorded."""
    loss, bits = number(entry, f"loss_{name}"), number(entry, f"bits_{name}")
    return None if loss is None or bits is None else Alternative(loss, bits)


def histogram(entry: Entry) -> Histogram | None:
    """A histogram that can be drawn, or `None`."""
    low, high = number(entry, "low"), number(entry, "high")
    counts = tuple(max(0.0, count) for count in numbers(entry.get("counts")))
    if low is None or high is None or low >= high or not any(counts):
        return None
    return Histogram(low, high, counts, numbers(entry.get("grid")))


def measured(entry: Entry, key: str) -> Measured | None:
    """A score with its interval, if it has one."""
    value, ends = number(entry, key), numbers(child(entry, "intervals").get(key))
    if value is None:
        return None
    return Measured(value, (ends[0], ends[1]) if len(ends) == 2 and ends[0] <= ends[1] else None)


def finite(value: object) -> float | None:
    """A finite number, or `None`; the bound also turns away NaN and integers that no float can hold."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and -1e300 < value < 1e300 else None  # type: ignore[operator, return-value]


def number(entry: Entry, key: str) -> float | None:
    """The finite number under a key, or `None`."""
    return finite(entry.get(key))


def size(entry: Entry, key: str) -> float:
    """The number under a key where nothing recorded means nothing stored."""
    return max(0.0, number(entry, key) or 0.0)


def numbers(value: object) -> tuple[float, ...]:
    """The finite numbers of a list."""
    return tuple(item for item in map(finite, value) if item is not None) if isinstance(value, list) else ()


def shape(entry: Entry) -> tuple[int, ...]:
    """The shape of a tensor; empty where it is not given."""
    return tuple(int(axis) for axis in numbers(entry.get("shape")))


def text(entry: Entry, key: str) -> str:
    """The text under a key, or an empty one."""
    value = entry.get(key)
    return clean(value) if isinstance(value, str) else ""


def clean(value: str) -> str:
    """The text with halves of characters replaced, which JSON can spell and no encoding can hold."""
    return HALF_CHARACTER.sub("\ufffd", value)


def texts(entry: Entry, key: str) -> tuple[str, ...]:
    """The texts of the list under a key."""
    value = entry.get(key)
    return tuple(clean(item) for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def child(entry: Entry, key: str) -> Entry:
    """The object under a key, or an empty one."""
    value = entry.get(key)
    return value if isinstance(value, dict) else {}


def entries(entry: Entry, key: str) -> list[Entry]:
    """The objects of the list under a key."""
    value = entry.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def flat(value: object, path: str = "") -> tuple[tuple[str, str], ...]:
    """Any JSON value as lines of (dotted path, text)."""
    match value:
        case None:
            return ()
        case dict():
            pairs = [(clean(f"{path}.{key}" if path else key), item) for key, item in value.items()]
        case list() if any(isinstance(item, dict | list) for item in value):
            pairs = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
        case str():
            return ((path, clean(value)),)
        case _:
            return ((path, json.dumps(value, ensure_ascii=False)),)
    return tuple(line for name, item in pairs for line in flat(item, name))
