"""What the page shows of a whole network: manifest.json, scores.json, run.json and delivery.json into one record."""

from __future__ import annotations

from math import prod
from pathlib import Path

from bitwright.report.changes import kind_of
from bitwright.report.network_records import (
    Delivery,
    Edit,
    Engine,
    Goal,
    Metric,
    NetworkPage,
    Output,
    PointRow,
    Round,
    Samples,
    Scores,
    Speed,
    Tried,
)
from bitwright.report.read import Entry, child, clean, entries, flat, number, numbers, read_json, read_run, text, texts
from bitwright.report.records import Kept, Source
from bitwright.report.summary import KeptGroup, Note, Part, Row, Tone, grouped

FORMAT = 1

_FEW = 6  # places that an edit left as they are, of which a sentence names so many


def is_network(folder: Path) -> bool:
    """Whether the manifest in a folder is that of a network."""
    manifest = read_json(folder / "manifest.json")
    return manifest is not None and manifest.get("kind") == "network"


def compose_network(folder: Path) -> NetworkPage:
    """The figures of the page; ValueError where a file cannot be read."""
    path = folder / "manifest.json"
    manifest = read_json(path) or {}
    if (found := manifest.get("format", FORMAT)) != FORMAT:
        raise ValueError(f"{path}: network format {found!r}; this version of Bitwright reads {FORMAT}: quantize again")
    note = read_json(folder / "run.json") or {}
    source = child(manifest, "source")
    weights = entries(manifest, "weights")
    return NetworkPage(
        kind="network",
        version=text(manifest, "version"),
        target=text(child(manifest, "recipe"), "target"),
        source=Source(text(note, "model") or folder.resolve().name, text(source, "digest"), None, "", None),
        calibration=samples_of(child(manifest, "samples")),
        recipe=flat(manifest.get("recipe")),
        scores=scores_of(read_json(folder / "scores.json")),
        run=read_run(folder),
        quantized_bits=bits_of(weights),
        parts=parts_of(manifest, weights),
        rows=tuple(map(row_of, weights)),
        notes=notes_of(source, weights),
        kept=floats_of(child(manifest, "float")),
        integer=len(child(manifest, "roles")),
        points=tuple(map(point_of, entries(manifest, "points"))),
        rules=tuple(
            Tried(rule_of(child(one, "rule")), number(one, "output_noise")) for one in entries(manifest, "range_rules")
        ),
        edits=edits_of(child(manifest, "edits")),
        goal=goal_of(child(manifest, "goal")),
        findings=texts(manifest, "findings"),
        delivery=delivery_of(read_json(folder / "delivery.json")),
    )


def bits_of(weights: list[Entry]) -> float | None:
    """Stored bits per element of the quantized weights."""
    elements = sum(prod(numbers(entry.get("shape"))) for entry in weights if numbers(entry.get("shape")))
    return sum(number(entry, "bits") or 0.0 for entry in weights) / elements if elements > 0 else None


def samples_of(entry: Entry) -> Samples:
    """The `samples` object of a manifest."""
    return Samples(number(entry, "count"), text(entry, "digest"), text(entry, "preprocessing"))


def scores_of(entry: Entry | None) -> Scores | None:
    """What `bitwright evaluate` measured; None where it has not run."""
    if entry is None:
        return None
    metric, ends = child(entry, "metric"), numbers(child(entry, "metric").get("interval"))
    found = Metric(
        text(metric, "name"),
        number(metric, "original"),
        number(metric, "delivered"),
        (ends[0], ends[1]) if len(ends) == 2 else None,
        number(metric, "samples"),
        metric.get("higher_is_better") is not False,
    )
    return Scores(
        metric=found if metric else None,
        outputs=outputs_of(entry),
        text=text(entry, "compared_on"),
        is_simulated=entry.get("is_simulated") is True,
        bytes=number(entry, "bytes"),
        bytes_original=number(entry, "bytes_original"),
    )


def outputs_of(entry: Entry) -> tuple[Output, ...]:
    """The `outputs` of scores or of an engine."""
    return tuple(
        Output(text(one, "output"), number(one, "original_db"), number(one, "simulation_db"))
        for one in entries(entry, "outputs")
    )


def row_of(entry: Entry) -> Row:
    """One weight; `gain` is how far its noise lies below that of rounding to nearest."""
    shape = tuple(int(axis) for axis in numbers(entry.get("shape")))
    bits, sqnr, nearest = number(entry, "bits"), number(entry, "sqnr"), number(entry, "sqnr_nearest")
    name = text(entry, "name") or "(no name)"
    return Row(
        name=name,
        kind=kind_of(name),
        block=None,
        shape=shape,
        spec=spec_of(child(entry, "stored")),
        bits=bits / prod(shape) if bits and shape and prod(shape) > 0 else None,
        sqnr_db=sqnr,
        share=None,
        gain=None if sqnr is None or nearest is None else 1 - 10 ** ((nearest - sqnr) / 10),
        solver="",
        chosen="bias corrected" if entry.get("bias_corrected") is True else "",
        notes=texts(entry, "notes"),
    )


def spec_of(stored: Entry) -> str:
    """A spec in a few words: `int8 per row`, `uint8 with zero`."""
    form, tile = child(stored, "format"), child(stored, "tile")
    width = number(form, "width")
    sign = "u" if form.get("signed") is False else ""
    kind = text(form, "type").lower() or "codes"
    name = f"{sign}{kind}{int(width)}" if width is not None else kind
    cols = number(tile, "cols")
    share = (
        "" if not tile else f"per group of {int(cols)}" if cols else "per row" if number(tile, "rows") else "per tensor"
    )
    zero = "with zero" if child(stored, "zero") else ""
    return " ".join(filter(None, (name, share, zero)))


def rule_of(rule: Entry) -> str:
    """A range rule in a few words: its class and its fields."""
    fields = ", ".join(f"{key} {value}" for key, value in flat({k: v for k, v in rule.items() if k != "type"})[:3])
    return f"{text(rule, 'type')} ({fields})" if fields else text(rule, "type")


def point_of(entry: Entry) -> PointRow:
    """One value that passes through codes."""
    low = number(entry, "low")
    return PointRow(
        value=text(entry, "value") or "(no name)",
        group=text(entry, "group"),
        spec=spec_of(child(entry, "stored")),
        rule=rule_of(child(entry, "rule")) or ("" if low is not None else "measured as it runs"),
        low=low,
        high=number(entry, "high"),
        clipped=number(entry, "clipped"),
        sqnr_db=number(entry, "sqnr"),
    )


def parts_of(manifest: Entry, weights: list[Entry]) -> tuple[Part, ...]:
    """Where the bytes of the artifact go: codes, their scales, and what stays as it was."""
    codes = scales = 0.0
    for entry in weights:
        shape = numbers(entry.get("shape"))
        width = number(child(child(entry, "stored"), "format"), "width") or 8.0
        total = number(entry, "bits") or 0.0
        held = min(total, width * prod(shape)) if shape else 0.0
        codes, scales = codes + held, scales + total - held
    found = (
        Part("Quantized codes", codes / 8, Tone.CODES),
        Part("Scales and zeros", scales / 8, Tone.PARAMS),
        Part("Graph, biases and other constants", number(manifest, "float_bytes") or 0.0, Tone.KEPT),
    )
    return tuple(part for part in found if part.bytes > 0)


def notes_of(source: Entry, weights: list[Entry]) -> tuple[Note, ...]:
    """What was noted of the source and of weights, equal texts together, the most frequent first."""
    pairs = [(note, text(entry, "name")) for entry in weights for note in texts(entry, "notes")]
    found = sorted(grouped(pairs).items(), key=lambda item: -len(item[1]))
    return (*(Note(note, ()) for note in texts(source, "notes")), *(Note(note, names) for note, names in found))


def floats_of(reasons: Entry) -> tuple[KeptGroup, ...]:
    """The operators that stay float, by reason, the largest group first."""
    groups = grouped((clean(why), clean(name)) for name, why in reasons.items() if isinstance(why, str))
    return tuple(
        KeptGroup("Operators", why, None, tuple(Kept(name, (), 0.0, "operator", why) for name in names))
        for why, names in sorted(groups.items(), key=lambda item: -len(item[1]))
    )


def edits_of(edits: Entry) -> tuple[Edit, ...]:
    """What each edit came to."""
    return tuple(
        Edit(
            clean(name),
            one.get("is_kept") is True,
            number(one, "output_noise_before"),
            tuple(Tried(_words_of(item), number(item, "output_noise")) for item in entries(one, "tried")),
            _shortened(texts(one, "refused")),
        )
        for name, one in edits.items()
        if isinstance(one, dict)
    )


def goal_of(goal: Entry) -> Goal | None:
    """The goal, if there was one, with what every round found."""
    asked = tuple(
        f"{text(one, 'metric')}, at most {number(one, 'max_drop'):g} worse"
        if number(one, "max_drop") is not None
        else f"at least {number(one, 'min_sqnr') or 0:g} dB"
        for one in entries(goal, "goals")
    )
    rounds = tuple(
        Round(number(one, "float"), tuple(numbers(one.get("found"))), number(one, "noise"))
        for one in entries(goal, "rounds")
    )
    return Goal(tuple(map(clean, asked)), goal.get("is_met") is True, rounds) if asked else None


def _shortened(places: tuple[str, ...]) -> tuple[str, ...]:
    return places if len(places) <= _FEW else (*places[: _FEW - 1], f"{len(places) - _FEW + 1} more")


def _words_of(tried: Entry) -> str:
    """What was tried: where it was applied, to how many channels if that is said, and its other fields."""
    sites = tried.get("sites")
    count = len(sites) if isinstance(sites, list) else 0
    channels = sum(int(number(one, "channels") or 0) for one in entries(tried, "sites"))
    places = [f"{count} place{'s' if count > 1 else ''}"] if count else []
    return ", ".join([*places, *([f"{channels} channels"] if channels else []), *filter(None, [_fields(tried)])])


def _fields(entry: Entry) -> str:
    held = {key: value for key, value in entry.items() if key != "output_noise" and not isinstance(value, dict | list)}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in flat(held))


def delivery_of(entry: Entry | None) -> Delivery | None:
    """What verification found; None where it has not run."""
    if entry is None:
        return None
    foretold = child(entry, "foretold")
    return Delivery(
        machine=text(child(entry, "machine"), "name"),
        target=text(foretold, "target"),
        is_here=foretold.get("is_here") is True,
        foretold=outputs_of(foretold),
        engines=tuple(map(engine_of, entries(entry, "trials"))),
        problems=texts(entry, "problems"),
        warnings=texts(entry, "warnings"),
    )


def engine_of(entry: Entry) -> Engine:
    """One trial."""
    counts = child(entry, "counts")
    floats = {clean(name): found for name in child(counts, "float") if (found := number(child(counts, "float"), name))}
    return Engine(
        name=text(entry, "engine"),
        version=text(entry, "version"),
        outputs=outputs_of(entry),
        integer=sum(number(child(counts, "integer"), name) or 0 for name in child(counts, "integer")),
        floats=tuple(sorted(floats.items(), key=lambda item: (-item[1], item[0]))),
        speeds=tuple(map(speed_of, entries(entry, "latencies"))),
    )


def speed_of(entry: Entry) -> Speed:
    """One comparison of times."""
    low, high = number(entry, "low"), number(entry, "high")
    return Speed(
        against=text(entry, "against"),
        batch=text(entry, "batch"),
        speedup=number(entry, "speedup"),
        interval=None if low is None or high is None else (low, high),
        milliseconds=number(entry, "milliseconds"),
        milliseconds_against=number(entry, "milliseconds_against"),
    )
