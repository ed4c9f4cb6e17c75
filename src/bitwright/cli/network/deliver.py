"""From an artifact to the file that engines run, and what was found out about that file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitwright import networks
from bitwright.cli.answer import err, say
from bitwright.export.delivered import delivered_digest
from bitwright.export.exporter import ExportError
from bitwright.export.onnx_forms import OnnxForm
from bitwright.recipe.forms import Activations
from bitwright.recipe.network import NetworkRecipe
from bitwright.store.artifact import ArtifactError
from bitwright.store.files import read_json, write_json
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.quantized import QuantizedNetwork
from bitwright.store.sample_set import Samples


def find_form(name: str) -> OnnxForm:
    """The form that the command line calls so; ValueError lists those there are."""
    names = [form.value for form in OnnxForm]
    if name not in names:
        raise ValueError(f"a whole network is exported to one of {', '.join(names)}; found --to {name}")
    return OnnxForm(name)


def check_exports(recipe: NetworkRecipe, form: OnnxForm) -> None:
    """ExportError where no engine runs what the recipe makes, or not so: before any work is done."""
    if form is OnnxForm.NBITS and recipe.activations is not Activations.FLOAT:
        raise ExportError(f"--to {form.value} is for recipes that quantize weights alone (w4a16, w8a16): use --to onnx")
    if recipe.activation_bits != 8 and recipe.activations is Activations.STATIC:
        raise ExportError(
            f"--to onnx: activations of {recipe.activation_bits} bits are simulated, no engine runs them; leave --to "
            "out (evaluate simulates the network), or take a recipe with 8-bit activations"
        )


def verify_file(
    network: QuantizedNetwork, file: Path, original: OnnxSource, samples: Samples, threads: int
) -> dict[str, Any]:
    """What was found out about a delivered file, as plain data, with what identifies the file. Says on what samples."""
    count = min(networks.verified_on(samples).count, samples.count)  # a fixed batch may be filled up
    of = f"{count} of {samples.count} samples: {samples.preprocessing}"
    err.print(f"verifying the delivered file on {of}", soft_wrap=True)
    return networks.verify(network, file, original, samples, threads).to_plain() | {"file": delivered_digest(file)}


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
    is_same = isinstance(found, dict) and found.get("file") == delivered_digest(file)
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
