"""From an artifact to the file that engines run, and what was found out about that file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from bitwright.cli.answer import say
from bitwright.evaluate.delivery import verify
from bitwright.evaluate.error import EvaluateError
from bitwright.evaluate.foretold import Aim, foretell
from bitwright.evaluate.latency import Timing
from bitwright.evaluate.machine import this_machine
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.export.onnx_forms import OnnxForm, export_onnx
from bitwright.recipe.targets import Target, find_target
from bitwright.store.artifact import ArtifactError
from bitwright.store.files import file_digest, read_json, text_digest, write_json
from bitwright.store.network_artifact import MANIFEST, float_bytes, read_manifest
from bitwright.store.onnx_source import OnnxSource, read_model
from bitwright.store.quantized import QuantizedNetwork
from bitwright.store.sample_set import Samples

FILE = "model.onnx"
_VERIFIED = 16  # samples that the delivered file is compared on
_BATCH = 8


def find_form(name: str) -> OnnxForm:
    """The form that the command line calls so; ValueError lists those there are."""
    names = [form.value for form in OnnxForm]
    if name not in names:
        raise ValueError(f"a whole network is exported to one of {', '.join(names)}; found --to {name}")
    return OnnxForm(name)


def export_to(network: QuantizedNetwork, folder: Path, form: OnnxForm = OnnxForm.STANDARD) -> Path:
    """The network as `folder`/model.onnx."""
    file = folder / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    export_onnx(network, file, form)
    return file


def exported_inside(network: QuantizedNetwork, artifact: Path, form: OnnxForm = OnnxForm.STANDARD) -> Path:
    """The file in the artifact's export/FORM, written unless it is there and newer than the artifact."""
    file = artifact / "export" / form.value / FILE
    if not file.is_file() or file.stat().st_mtime_ns < (artifact / MANIFEST).stat().st_mtime_ns:
        export_to(network, file.parent, form)
    return file


def file_bytes(file: Path) -> int:
    """Size of a delivered file and of the data beside it."""
    return sum(path.stat().st_size for path in _files(file))


def stored_bytes(network: QuantizedNetwork, artifact: Path) -> int:
    """Size of the artifact's weights in codes, and of the float file without what they stand for."""
    return (artifact / "weights.safetensors").stat().st_size + float_bytes(network)


def _files(file: Path) -> list[Path]:
    data = file.with_name(f"{file.name}.data")
    return [file, data] if data.is_file() else [file]


def _digest(file: Path) -> str:
    return text_digest([file_digest(path) for path in _files(file)])


def verify_file(file: Path, original: OnnxSource, samples: Samples, target: Target, threads: int) -> dict[str, Any]:
    """What the delivered file does in the engines and on its target, beside what decisions foretold and the original.

    Where the target's engine runs here it is held against that target's own arithmetic, else against floats.
    """
    feeds: list[Mapping[str, Tensor]] = list(islice(samples.batches(_BATCH), -(-_VERIFIED // _BATCH)))
    in_floats = OnnxRunner(read_model(file), file.parent, exact=True)
    aim, foretold, failed = Aim(target.name, target.engine, target.arithmetic), None, []
    try:
        foretold = foretell(file, aim, this_machine(), OnnxRunner(original), in_floats, feeds)
    except EvaluateError as error:
        failed = [str(error)]
    if foretold is not None and foretold.is_here:
        expected: Sequence[Mapping[str, Tensor]] = foretold.made
    else:
        expected = [in_floats.run(one) for one in feeds]
    plain = verify(file, original.path, feeds, expected, threads, Timing()).to_plain()
    if foretold is not None:
        plain["foretold"] = foretold.to_plain()
        failed = [*foretold.warnings]
    plain["warnings"] = [*failed, *plain["warnings"]]
    return plain | {"file": _digest(file)}


def target_of(artifact: Path) -> Target:
    """The target that an artifact was made for."""
    return find_target(read_manifest(artifact)["recipe"]["target"])


def note_delivery(artifact: Path, delivery: Mapping[str, Any]) -> None:
    """Write delivery.json beside the artifact's manifest."""
    write_json(artifact / "delivery.json", delivery)


def known_delivery(artifact: Path, file: Path) -> dict[str, Any] | None:
    """What is known of a file with these contents, from the artifact's delivery.json; None where it is of another."""
    path = artifact / "delivery.json"
    if not path.is_file():
        return None
    try:
        found = read_json(path)
    except ValueError as error:
        raise ArtifactError(f"{error} that wrote this folder") from error
    is_same = isinstance(found, dict) and found.get("file") == _digest(file)
    return found if is_same else None


def show_delivery(delivery: Mapping[str, Any]) -> None:
    """What each engine showed, then what speaks against the file."""
    if "foretold" in delivery:
        say(_told(delivery["foretold"]))
    for trial in delivery["trials"]:
        say("\n".join(_words(trial)))
    for text in (*delivery["problems"], *delivery["warnings"]):
        say(f"warning: {text}", style="yellow")


def _told(foretold: Mapping[str, Any]) -> str:
    """The target's own figure, labelled as simulated where its engine does not run here."""
    found = [one["original_db"] for one in foretold["outputs"] if one["original_db"] is not None]
    label = "integer-exact" if foretold["is_here"] else "simulated, integer-exact"
    told = f"{min(found):.1f} dB against the original" if found else "are not finite"
    return f"{foretold['target']} ({label}): outputs {told}"


def _words(trial: Mapping[str, Any]) -> list[str]:
    """One engine in a line for its outputs and operators, and one for each comparison of times."""
    original = min((one["original_db"] for one in trial["outputs"] if one["original_db"] is not None), default=None)
    simulated = [one["simulation_db"] for one in trial["outputs"] if one["simulation_db"] is not None]
    counts = trial["counts"]
    integer, floats = (sum(counts.get(kind, {}).values()) for kind in ("integer", "float"))
    names = ", ".join(sorted(counts.get("float", {}))) or "none"
    told = "are not finite" if original is None else f"{original:.1f} dB against the original"
    first = (
        f"{trial['engine']} {trial['version']}: outputs {told}"
        + (f", {min(simulated):.1f} dB against the simulation" if simulated else "")
        + f"; {integer} operators in integers, {floats} in float ({names})"
    )
    exact = [one["original_db"] for one in trial["exact"] if one["original_db"] is not None]
    beside = (
        [f"  {min(exact):.1f} dB with activations in float32, not rounded to 8 bits"]
        if exact and min(exact) != original
        else []
    )
    times = [
        f"  {one['speedup']:.2f}x {one['against']} at batch {one['batch']} ({one['milliseconds']:.3g} ms against "
        f"{one['milliseconds_against']:.3g}; 95% interval {one['low']:.2f} to {one['high']:.2f})"
        for one in trial["latencies"]
    ]
    return [first, *beside, *times]
